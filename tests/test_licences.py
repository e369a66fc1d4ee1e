import pytest

from artiagent.checkpoints import model_name
from artiagent.licences import (
    LAYOUT_LICENCES,
    LicenceCounts,
    is_noncommercial,
    licence_of_model,
    licence_of_text,
    summary_of,
    with_model,
)
from artiagent.records import Pair
from artiagent.store import DatasetWriter, Row

# `licenses` of COCO's annotation files, ids 1 to 8: name, URL, commercial use, altered copies.
COCO = (
    ("Attribution-NonCommercial-ShareAlike License", "http://creativecommons.org/licenses/by-nc-sa/2.0/", False, True),
    ("Attribution-NonCommercial License", "http://creativecommons.org/licenses/by-nc/2.0/", False, True),
    ("Attribution-NonCommercial-NoDerivs License", "http://creativecommons.org/licenses/by-nc-nd/2.0/", False, False),
    ("Attribution License", "http://creativecommons.org/licenses/by/2.0/", True, True),
    ("Attribution-ShareAlike License", "http://creativecommons.org/licenses/by-sa/2.0/", True, True),
    ("Attribution-NoDerivs License", "http://creativecommons.org/licenses/by-nd/2.0/", True, False),
    ("No known copyright restrictions", "http://flickr.com/commons/usage/", True, True),
    ("United States Government Work", "http://www.usa.gov/copyright.shtml", True, True),
)


@pytest.mark.parametrize(("name", "url", "commercial", "derivatives"), COCO)
def test_licences_of_coco_by_name_and_by_url(name, url, commercial, derivatives):
    for text in (name, url) if "creativecommons" in url else (name,):
        licence = licence_of_text(text)
        assert (licence.commercial, licence.derivatives) == (commercial, derivatives), text
        assert licence.restricted is not (commercial and derivatives)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CC BY-NC 4.0", True), ("cc-by-nc-sa-4.0", True), ("cc_by_nc_nd_2_0", True), ("CC BY-SA-NC 2.0", True),
        ("non-commercial use", True), ("for research only", True), ("Research Purposes", True), ("academic use", True),
        ("CC-BY-4.0", False), ("CC BY-SA 3.0 (Anna, Raleigh NC)", False), ("Apache License 2.0", False),
        ("Apache-2.0", False), ("MIT", False), ("CC0-1.0 (photographer: Rachel Michetti)", False),
        ("public domain (NASA; no known copyright restrictions)", False), ("Academic Free License 3.0", None),
        ("unknown", None), ("", None), ("other", None), ("llama3", None), ("permit needed", None),
        ("not stated (Middlebury Stereo 2014 benchmark, research data)", None),
    ],
)  # fmt: skip
def test_unknown_is_neither_free_nor_forbidden(text, expected):
    assert is_noncommercial(text) is expected


def test_layouts_read_back_with_their_terms():
    found = {layout: licence_of_text(name) for layout, name in LAYOUT_LICENCES.items()}
    assert {layout: licence.commercial for layout, licence in found.items()} == {
        "coco": False, "caltech101": True, "hands11k": False, "celeba_hq": False,
    }  # fmt: skip
    assert "distributed" in found["celeba_hq"].conditions


@pytest.mark.parametrize(
    ("location", "name", "commercial"),
    [
        ("black-forest-labs/FLUX.1-dev", "FLUX.1-dev Non-Commercial License", False),
        ("/models/flux.1-fill-dev", "FLUX.1-dev Non-Commercial License", False),
        ("black-forest-labs/FLUX.1-schnell", "Apache-2.0", True),
        ("/c/hub/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/1f", "Qwen Research License", False),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Apache-2.0", True),
        ("Qwen/Qwen2.5-VL-72B-Instruct", "Qwen License Agreement", True),
        ("Qwen/Qwen-Image", "Apache-2.0", True),
        ("Qwen/Qwen-Image-2.1", "unknown", None),
        ("OpenGVLab/InternVL3_5-8B-HF", "Apache-2.0", True),
        ("stabilityai/stable-diffusion-3.5-large", "Stability AI Community License", True),
        ("openai/clip-vit-base-patch16", "MIT", True),
        ("facebook/sam2.1-hiera-large", "Apache-2.0", True),
        ("weights/here/sam_vit_h_4b8939.pth", "Apache-2.0", True),
        ("facebook/sam3", "SAM License", True),
        ("groundingdino_swint_ogc.pth", "Apache-2.0", True),
        ("IDEA-Research/grounding-dino-tiny", "Apache-2.0", True),
        ("Salesforce/blip2-flan-t5-xl", "MIT", True),
        ("gpt-4o", "OpenAI terms", True),
        ("gpt-oss-20b", "unknown", None),
        ("gemini-2.5-flash", "Gemini API terms", True),
        ("data/weights/nano-flux", "Apache-2.0", True),
        ("data/weights/nano-vl", "Apache-2.0", True),
        ("somebody/something", "unknown", None),
    ],
)
def test_models_by_id_folder_and_file(location, name, commercial):
    licence = licence_of_model(location)
    assert (licence.name, licence.commercial) == (name, commercial)


def test_a_folder_s_own_card_decides(tmp_path):
    def folder(name, card):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(card)
        return str(tmp_path / name)

    mine = folder("mine", "---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n# mine\n")
    assert licence_of_model(mine).commercial is False
    assert licence_of_model(folder("flux.1-dev", "---\nlicense: apache-2.0\n---\n")).commercial is True
    assert licence_of_model(folder("plain", "no front matter\n---\nlicense: mit\n---\n")).name == "unknown"
    assert licence_of_model(folder("broken", "---\nlicense: [\n---\n")).name == "unknown"


def test_names_say_nothing_of_the_machine(tmp_path):
    (tmp_path / "a").mkdir()
    assert model_name(str(tmp_path / "a")) == "a"
    assert model_name("/h/models--o--m/snapshots/0a1b") == "o/m"
    assert model_name("o/m") == "o/m"
    assert model_name("data/weights/nano-vl") == "nano-vl"


def pair(number, **fields):
    return Pair(
        job_id=f"j{number}", source_id=f"s{number}", group="g", variant=0, width=8, height=8, prompt="", artifacts=(),
        backbone="generator", backbone_sha256="0", sampling={}, **fields,
    )  # fmt: skip


def test_rows_are_counted_by_licence(tmp_path):
    rows = [
        with_model(pair(0, licence="CC0-1.0"), "generator", "data/weights/nano-flux"),
        with_model(pair(1, licence="Attribution-NonCommercial License"), "generator", "black-forest-labs/FLUX.1-dev"),
        with_model(pair(2), "generator", "black-forest-labs/FLUX.1-dev"),
    ]
    rows[2] = with_model(rows[2], "judge", "Qwen/Qwen2.5-VL-3B-Instruct")
    writer = DatasetWriter(tmp_path, "curated")
    writer.write("a", [Row(r.job_id, r) for r in rows])
    found = summary_of(writer.finish())
    flux = "generator: black-forest-labs/FLUX.1-dev"
    assert found == LicenceCounts(
        rows=3,
        images={"Attribution-NonCommercial License": 1, "CC0-1.0": 1, "unknown": 1},
        models={
            flux: {"FLUX.1-dev Non-Commercial License": 2},
            "generator: nano-flux": {"Apache-2.0": 1},
            "judge: Qwen/Qwen2.5-VL-3B-Instruct": {"Qwen Research License": 1},
        },
    )
    assert found.restricted() == {
        "Attribution-NonCommercial License (images)": 1,
        f"FLUX.1-dev Non-Commercial License ({flux})": 2,
        "Qwen Research License (judge: Qwen/Qwen2.5-VL-3B-Instruct)": 1,
    }
    assert found.untold() == {"unknown (images)": 1}
