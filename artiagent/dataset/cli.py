"""Data sets as commands: list, card, export, diff, publish, pull, gc. A set is named by its folder or digest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

Add = Callable[..., argparse.ArgumentParser]
SET = "folder of a curated set, or the beginning of its digest (see 'artiagent data list')"
FORMS, SPLITS, SPACES = ("coco", "sharegpt", "datasets"), ("train", "val"), ("pixels", "per-mille")


def add_commands(kinds: argparse._SubParsersAction, add: Add) -> None:
    """All commands with their options; `add(kinds, name, help, command)` makes a parser."""
    add(kinds, "list", "curated sets of this project: in the store, published, or both", list_sets)
    made = add(kinds, "card", "the card of a set: counts, sources, licences, models, audit, how to load it", card)
    made.add_argument("set", help=SET)
    made.add_argument("--out", type=Path, metavar="DIR", help="write DIR/README.md instead of printing it")
    made = add(kinds, "export", "accepted pairs in a form that other tools read", export)
    made.add_argument("set", help=f"{SET}; for sharegpt also a set of conversations")
    made.add_argument("--format", choices=FORMS, required=True)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    made.add_argument("--split", choices=SPLITS, help="only the sources of this split; default: all")
    made.add_argument(
        "--space", choices=SPACES, default="pixels", help="of boxes in sharegpt: image pixels, or 0 to 1000 per side"
    )
    made.add_argument("--scenes", metavar="DIR", help="scenes behind the set: sharegpt then asks about parts as well")
    made = add(kinds, "diff", "what differs between two sets: counts, types, sources, verdicts, audit, settings", diff)
    made.add_argument("left", help=SET)
    made.add_argument("right", help=SET)
    made.add_argument("--json", action="store_true", help="print everything as JSON")
    made = add(kinds, "publish", "push a set with its card to its DVC remote; again, it does nothing", publish)
    made.add_argument("set", help=SET)
    made.add_argument("--remote", default="remote", help="folder below the project's home, or a URL such as s3://...")
    made.add_argument(
        "--acknowledge-noncommercial", action="store_true", help="publish material that is not free for commercial use"
    )
    _pull_parser(kinds, add)
    _gc_parser(kinds, add)


def _pull_parser(kinds: argparse._SubParsersAction, add: Add) -> None:
    made = add(kinds, "pull", "fetch a published set, or some of its shards, into a folder", pull)
    made.add_argument("set", help="beginning of a published digest")
    made.add_argument("--shards", metavar="N-M,N", help="only these Parquet files, counted from 0, e.g. 0-3,7")
    made.add_argument("--remote", default="", help="where to look when it was not published from here")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")


def _gc_parser(kinds: argparse._SubParsersAction, add: Add) -> None:
    made = add(kinds, "gc", "list what no pointer, run or unfinished work refers to; with --yes remove it", gc)
    made.add_argument("--dry-run", action="store_true", help="only list (the default)")
    made.add_argument("--yes", action="store_true", help="remove what is listed")
    made.add_argument("--remote", metavar="URL", help="look on this remote of published sets instead of this machine")
    made.add_argument("--store", action="store_true", help="look in $ARTIAGENT_STORE instead of this machine")
    made.add_argument(
        "--days", type=float, default=1.0, help="leave alone what is younger (default %(default)s; least 1)"
    )
    made.add_argument(
        "--abandon", action="append", default=[], metavar="RUN", help="do not wait for this unfinished run; repeatable"
    )


def list_sets(arguments: argparse.Namespace) -> int:
    """One line for every known curated set."""
    from artiagent.dataset.known import known_sets

    known = known_sets()
    if not known:
        print("no curated sets yet; 'artiagent run' makes the first")
    for entry in known:
        published = f"published to {entry.pointer.remote}" if entry.pointer else "not published"
        print(f"{entry.digest[:16]}  {entry.rows:>7} pairs  {published}  {entry.folder or ''}".rstrip())
    return 0


def card(arguments: argparse.Namespace) -> int:
    """Print the card, or write it into a folder."""
    from artiagent.dataset.card import CARD, curated_card, write_card
    from artiagent.dataset.known import resolve
    from artiagent.pointers import find_pointer

    found = resolve(arguments.set)
    pointer = find_pointer(found.digest)
    acknowledged = bool(pointer and pointer.acknowledged)
    if arguments.out is None:
        print(curated_card(found, acknowledged=acknowledged), end="")
    else:
        write_card(found, arguments.out, acknowledged=acknowledged)
        print(arguments.out / CARD)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write the set in another form."""
    from artiagent.dataset.export import export as write
    from artiagent.dataset.known import resolve

    source = resolve(arguments.set, ("curated", "conversations") if arguments.format == "sharegpt" else ("curated",))
    scenes = resolve(arguments.scenes, ("scenes",)) if arguments.scenes else None
    options = {"split": arguments.split, "space": arguments.space, "scenes": scenes}
    print(write(source, arguments.format, arguments.out, **options))
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    from artiagent.dataset.diff import compare, text
    from artiagent.dataset.facts import describe
    from artiagent.dataset.known import resolve

    left, right = (describe(resolve(name)) for name in (arguments.left, arguments.right))
    found = compare(left, right)
    print(json.dumps(found, indent=1) if arguments.json else text(found))
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """Push a set; says what was left to acknowledge."""
    from artiagent.dataset.known import resolve
    from artiagent.publish import publish as push

    pointer = push(resolve(arguments.set), arguments.remote, acknowledged=arguments.acknowledge_noncommercial)
    print(f"{pointer.kind} {pointer.digest[:16]}: {pointer.files} files, {pointer.size} bytes at {pointer.remote}")
    return 0


def pull(arguments: argparse.Namespace) -> int:
    """Fetch a set or a part of it; says what is in the folder."""
    from artiagent.dataset.pull import find_published, parse_shards, pull_set

    shards = parse_shards(arguments.shards) if arguments.shards is not None else None
    ref = pull_set(find_published(arguments.set.lower(), arguments.remote), arguments.out, shards)
    print(f"{ref.kind} {ref.digest[:16]}: {ref.rows} rows in {ref.shards} files, {ref.uri}")
    return 0


def gc(arguments: argparse.Namespace) -> int:
    """List what nothing refers to; remove it when told to."""
    from artiagent.dataset.garbage import collect, listing, survey

    if arguments.yes and arguments.dry_run:
        raise ValueError("--dry-run lists, --yes removes: give one of them")
    if arguments.remote and arguments.store:
        raise ValueError("--remote and --store are two places: give one of them")
    found = survey(arguments.remote, arguments.store, arguments.days, arguments.abandon)
    print(listing(found))
    if arguments.yes:
        print(f"removed: {collect(found)} bytes")
    elif found.garbage:
        print("nothing was removed; --yes removes it")
    return 0
