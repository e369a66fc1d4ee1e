"""Asks a served ArtiAgent model about one image, with nothing but Pillow: ``python client.py URL IMAGE``.

The server is ``artiagent serve`` or any other that speaks OpenAI's chat completions. The three questions are those of
fine-tuning. The image is sent in a size that a Qwen2.5-VL processor leaves alone, so that the boxes it speaks of are
pixels of what was sent. Who has the package says ``artiagent inspect IMAGE --server URL --json`` instead.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import urllib.request

from PIL import Image, ImageOps

VERDICT, BOXES, EXPLANATION = (
    "Does this image contain visual artifacts?",
    "Locate all visual artifacts as a JSON list of boxes.",
    "Describe all visual artifacts in this image.",
)


def fitted(image: Image.Image, unit: int, pixels: int) -> Image.Image:
    """The image with both sides multiples of ``unit`` px (patch times merge: 28, of nano-VL 16), within the budget."""
    scale = min(1.0, math.sqrt(pixels / (image.width * image.height)))
    return image.resize(tuple(max(unit, int(side * scale) // unit * unit) for side in image.size))


def ask(options: argparse.Namespace, uri: str, question: str, tokens: int) -> dict:
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0}
    body |= {"model": options.model} if options.model else {}
    if question == VERDICT:
        body |= {"logprobs": True, "top_logprobs": 20}  # transformers serve gives none: then the word decides
    request = urllib.request.Request(
        f"{options.url.rstrip('/')}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["choices"][0]


def chance(choice: dict) -> float | None:
    """P(Yes) / (P(Yes) + P(No)) of the first token, None where the server does not tell."""
    first = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    shares = {"yes": 0.0, "no": 0.0}
    for token in first:
        word = token["token"].strip().lower()
        shares |= {word: shares[word] + math.exp(token["logprob"])} if word in shares else {}
    return shares["yes"] / sum(shares.values()) if sum(shares.values()) else None


def to_boxes(text: str, sent: Image.Image, image: Image.Image) -> tuple[list, str]:
    """Boxes in pixels of the image; strict: what is no list of boxes yields none, and says so."""
    try:
        boxes = [[float(v) for v in (x0, y0, x1, y1) if x0 < x1 and y0 < y1] for x0, y0, x1, y1 in json.loads(text)]
    except (ValueError, TypeError):
        return [], "unparsable"
    if not all(boxes):
        return [], "invalid_box"
    sides = (image.width / sent.width, image.height / sent.height) * 2
    return [
        [math.floor(v * s + 0.5) for v, s in zip(box, sides, strict=True)] for box in boxes
    ], "ok" if boxes else "empty"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url", help="http://127.0.0.1:8000")
    parser.add_argument("image")
    parser.add_argument("--model", help="the server's name of it; transformers serve needs none")
    parser.add_argument("--unit", type=int, default=28)
    parser.add_argument("--pixels", type=int, default=262_144, help="image budget of fine-tuning")
    options = parser.parse_args()
    with open(options.image, "rb") as file:
        data = file.read()
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    sent, buffer = fitted(image, options.unit, options.pixels), io.BytesIO()
    sent.save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    choice = ask(options, uri, VERDICT, 4)
    score, said = chance(choice), choice["message"]["content"].strip().lower()
    yes = score >= 0.5 if score is not None else said.startswith("yes")
    known = score is not None or said.startswith(("yes", "no"))
    found = {
        "image": options.image, "image_sha256": hashlib.sha256(data).hexdigest(), "width": image.width,
        "height": image.height, "verdict": ("artifacts" if yes else "clean") if known else "unanswered",
        "score": score, "boxes": [], "explanation": "", "status": {"detection": "ok" if known else "prose"},
    }  # fmt: skip
    if known and yes:
        located = ask(options, uri, BOXES, 64)["message"]["content"]
        found["boxes"], found["status"]["localization"] = to_boxes(located, sent, image)
        found["explanation"] = " ".join(ask(options, uri, EXPLANATION, 96)["message"]["content"].split())
        found["status"]["explanation"] = "ok" if found["explanation"] else "no_answer"
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
