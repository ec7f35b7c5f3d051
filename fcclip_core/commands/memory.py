"""`fcclip memory`: asks an object memory's file where things are, lists, shows, exports, merges, names and forgets."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.inference_arguments import add_text_tower_arguments, split_classes
from fcclip_core.commands.memory_filters import add_filter_arguments, filters_from
from fcclip_core.commands.printing import say
from fcclip_core.errors import FcclipError
from fcclip_core.files.atomic_write import atomic_write, write_atomically
from fcclip_core.files.json_files import write_json
from fcclip_core.files.paths import expanded, refuse_overwriting

if TYPE_CHECKING:
    from fcclip_core.memory.asking import Answer
    from fcclip_core.memory.object_memory import ObjectMemory
    from fcclip_core.segmenter import Segmenter


def add_parser(subparsers: Any) -> None:
    """Registers the command and its actions."""
    parser = subparsers.add_parser(
        "memory",
        help="ask an object memory where things are; list, show, export, merge, name and forget objects",
        description="Works on a file that `fcclip segment BAG --memory FILE` or a robot has filled, without ROS. A "
        "file that a running node writes can be read meanwhile, and not be changed.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    found = _add_action(actions, "list", list_objects, "print the objects")
    add_filter_arguments(found)
    found.add_argument("--limit", type=int, default=0, metavar="N", help="objects at most, the newest (default: all)")
    found.add_argument("--json", action="store_true", help="print JSON")

    ask = _add_action(actions, "ask", ask_words, "print where the objects are that words name; exit code 1 if none is")
    ask.add_argument("words", metavar="WORDS", help='what to look for, commas between synonyms: "red mug, red cup"')
    ask.add_argument("--distractors", default="", metavar="WORDS", help='what it is not, although similar: "vase; jar"')
    ask.add_argument("--limit", type=int, default=10, metavar="N", help="answers at most (default: 10)")
    ask.add_argument(
        "--min-probability", type=float, default=0.1, metavar="N", help="of an answer, 0 to 1 (default: 0.1)"
    )
    ask.add_argument("--json", action="store_true", help="print JSON")
    add_filter_arguments(ask)
    add_text_tower_arguments(ask)

    show = _add_action(actions, "show", show_object, "print everything that is known of an object")
    show.add_argument("id", type=int, metavar="ID")
    show.add_argument("--crop", type=expanded, metavar="FILE.jpg", help="write its picture")
    show.add_argument("--json", action="store_true", help="print JSON")

    export = _add_action(actions, "export", export_objects, "write the objects as JSON, without pictures")
    export.add_argument("target", type=expanded, metavar="OUT.json")
    add_filter_arguments(export)

    merge = _add_action(
        actions, "merge", merge_files, "join memories of one map: their coordinates must be the same", several=True
    )
    merge.add_argument("--out", required=True, type=expanded, metavar="FILE", help="the new memory; never replaced")

    name = _add_action(actions, "name", name_object, "give an object a name of its own, by which `ask` finds it")
    name.add_argument("id", type=int, metavar="ID")
    name.add_argument("text", metavar="NAME", help='"" takes it away')

    forget = _add_action(actions, "forget", forget_objects, "forget objects")
    forget.add_argument("ids", type=int, nargs="+", metavar="ID")


def list_objects(args: argparse.Namespace) -> int:
    """Prints the objects, by id."""
    from fcclip_core.commands.memory_text import print_json, print_objects
    from fcclip_core.memory.documents import document_of

    if args.limit < 0:
        raise FcclipError(f"--limit is {args.limit}; it must be at least 0")
    memory = _read(args.file)
    everything = _all_of(memory)
    filters = filters_from(args, everything)
    chosen = [item for item in memory.objects(filters.states) if filters.passes(item)]
    if args.limit:
        newest = sorted(chosen, key=lambda item: -item.last_seen)[: args.limit]
        chosen = sorted(newest, key=lambda item: item.id)
    if args.json:
        print_json([document_of(item) for item in chosen])
        return 0
    if chosen:
        print_objects(chosen, filters.now)
    say(f"{len(chosen)} of {len(everything)} objects in {args.file}")
    return 0


def ask_words(args: argparse.Namespace) -> int:
    """Prints the answers.

    Returns:
        0, or 1 if nothing is probable enough.
    """
    from fcclip_core.commands.memory_text import print_answers, print_json
    from fcclip_core.memory.asking import Question
    from fcclip_core.memory.object_memory import ObjectMemory
    from fcclip_core.vocabulary.query import Query

    memory = _read(args.file)
    filters = filters_from(args, _all_of(memory))
    question = Question(
        Query.of([args.words], split_classes(args.distractors)),
        area=filters.area,
        max_age=filters.max_age,
        min_probability=args.min_probability,
        called=filters.called,
        states=filters.states,
        limit=args.limit,
    )
    # Only now: loading the weights takes longer than finding out that the question is wrong.
    segmenter = _segmenter(args)
    memory = ObjectMemory(path=args.file, background=segmenter.default_background(), read_only=True)
    reply = memory.ask(question, segmenter.embed_text, filters.now)
    if args.json:
        answers = [_answer_document(item) for item in reply.answers]
        best = None if reply.best is None else _answer_document(reply.best)
        print_json({"sentence": reply.sentence, "answers": answers, "best": best})
    else:
        say(reply.sentence)
        if reply.answers:
            print_answers([(item.object, item.probability) for item in reply.answers], filters.now)
    return 0 if reply.answers else 1


def show_object(args: argparse.Namespace) -> int:
    """Prints an object, and writes its picture."""
    import time

    from fcclip_core.commands.memory_text import print_json, print_object
    from fcclip_core.memory.documents import document_of

    if args.crop is not None and args.crop.suffix.lower() not in (".jpg", ".jpeg"):
        raise FcclipError(f"--crop {args.crop}: pictures are JPEG; choose a name that ends in .jpg")
    memory = _read(args.file)
    item = memory.get(args.id)
    if args.crop is not None:
        refuse_overwriting("--crop", [args.crop], [args.file])
        if not item.crop:
            raise FcclipError(f"object {item.id} has no picture; it was observed without an image")
        write_atomically(args.crop, item.crop)
    if args.json:
        print_json(document_of(item))
    else:
        print_object(item, time.time_ns())
    return 0


def export_objects(args: argparse.Namespace) -> int:
    """Writes the objects as JSON."""
    from fcclip_core.memory.documents import document_of

    memory = _read(args.file)
    filters = filters_from(args, _all_of(memory))
    refuse_overwriting("OUT.json", [args.target], [args.file])
    chosen = [item for item in memory.objects(filters.states) if filters.passes(item)]
    write_json(args.target, {"model": memory.model, "objects": [document_of(item) for item in chosen]})
    say(f"wrote {len(chosen)} objects to {args.target}")
    return 0


def merge_files(args: argparse.Namespace) -> int:
    """Joins memories of one map into a new one."""
    from fcclip_core.memory.object_memory import ObjectMemory

    if len(args.files) < 2:
        raise FcclipError(f"there is only {args.files[0]} to merge; name two files or more")
    if args.out.exists():
        raise FcclipError(f"--out {args.out} exists already, and a memory is never replaced; choose another name")
    if not args.out.parent.is_dir():
        raise FcclipError(f"--out {args.out}: there is no folder {args.out.parent}")
    counts = []
    with atomic_write(args.out) as part:
        with ObjectMemory(path=part) as merged:
            for path in args.files:
                memory = _read(path)
                merged.merge(memory)
                counts.append(len(memory))
        total = len(merged)
    say(
        f"{' + '.join(map(str, counts))} objects became {total} in {args.out}; their coordinates were taken to be of "
        "one map"
    )
    return 0


def name_object(args: argparse.Namespace) -> int:
    """Names an object."""
    with _changing(args.file) as memory:
        item = memory.name(args.id, args.text)
    say(f"object {item.id} is called {item.name or 'nothing'}")
    return 0


def forget_objects(args: argparse.Namespace) -> int:
    """Forgets objects.

    Returns:
        0, or 1 if there was none of them.
    """
    with _changing(args.file) as memory:
        count = memory.forget(args.ids)
    say(f"{count} of {len(set(args.ids))} objects are forgotten in {args.file}")
    return 0 if count else 1


def _add_action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], about: str, *, several: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}."
    )
    if several:
        parser.add_argument("files", nargs="+", type=expanded, metavar="FILE", help="object memories")
    else:
        parser.add_argument("file", type=expanded, metavar="FILE", help="the object memory")
    parser.set_defaults(run=run)
    return parser


def _read(path: Path) -> ObjectMemory:
    """The memory, which no change gets into the file of.

    Raises:
        MemoryFileError: There is none, or it cannot be read.
    """
    from fcclip_core.memory.object_memory import ObjectMemory

    return ObjectMemory(path=path, read_only=True)


def _changing(path: Path) -> ObjectMemory:
    """The memory, for changes.

    Raises:
        MemoryFileError: There is none, it is in use or corrupt.
    """
    from fcclip_core.memory.object_memory import ObjectMemory

    _read(path)  # neither makes a file nor moves a corrupt one aside, as opening for writing would
    return ObjectMemory(path=path)


def _all_of(memory: ObjectMemory) -> list[Any]:
    from fcclip_core.memory.objects import State

    return memory.objects(tuple(State))


def _segmenter(args: argparse.Namespace) -> Segmenter:
    from fcclip_core.segmenter import Segmenter

    return Segmenter.from_checkpoint(args.checkpoint, device=args.device, backend="eager")


def _answer_document(found: Answer) -> dict[str, Any]:
    from fcclip_core.memory.documents import document_of

    return {"probability": round(found.probability, 6), "age": round(found.age, 3), **document_of(found.object)}
