"""What benchmark programs share: tables, records without folders of the machine, arguments."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.lib.arguments import MODEL, make_parser
from benchmarks.lib.report import Report, arguments_of, portable, print_table


def test_a_table_is_markdown_with_a_format_for_each_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({"way": "", "ms": ".1f", "share": ".0%"}, [("eager", 12.345, 0.5), ("auto", None, 1)], "two ways")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["", "two ways"]
    assert not lines[2].strip(), "Markdown wants an empty line before a table"
    assert [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if "|" in line] == [
        ["way", "ms", "share"],
        ["-------", "------", "-------"],
        ["eager", "12.3", "50%"],
        ["auto", "-", "100%"],
    ]


def test_wide_tables_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {f"a rather long header {index}": "" for index in range(7)}
    print_table(columns, [["cell"] * 7])
    header = capsys.readouterr().out.splitlines()[1]
    assert all(name in header for name in columns)


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (Path("/home/somebody/runs/best.safetensors"), "best.safetensors"),
        ("/home/somebody/runs/best.safetensors", "best.safetensors"),
        ("cannot open '/opt/lib/libnvinfer.so.10': no such file", "cannot open 'libnvinfer.so.10': no such file"),
        ("~/segments, publish_contours: rle", "~/segments, publish_contours: rle"),
        ("GFLOP/s and 1/16 px", "GFLOP/s and 1/16 px"),
        ({"of": [Path("a/b"), 1.5, None]}, {"of": ["b", 1.5, None]}),
        ((640, 480), [640, 480]),
    ],
)
def test_records_hold_names_and_no_folders(value: object, recorded: object) -> None:
    assert portable(value) == recorded


def test_arguments_are_recorded_without_where_the_record_goes() -> None:
    args = argparse.Namespace(checkpoint="runs/best.safetensors", size=(64, 48), json=Path("out.json"))
    assert arguments_of(args) == {"checkpoint": "best.safetensors", "size": (64, 48)}
    assert arguments_of(args, "size") == {"size": (64, 48)}


def test_a_report_begins_with_program_and_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("example")
    report.write(tmp_path / "out.json", frames=3)
    report.write(None, frames=4)
    record = json.loads((tmp_path / "out.json").read_text())
    assert list(record) == ["program", "machine", "frames"]
    assert record["program"] == "example" and record["machine"]["cores"] > 0
    assert "commit" in capsys.readouterr().out


def test_shared_arguments_take_a_programs_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser("What it measures.", *MODEL, size="320x240", threads=1)
    args = parser.parse_args([])
    assert (args.checkpoint, args.size, args.threads, args.json) == ("demo", (320, 240), 1, None)
    with pytest.raises(SystemExit):
        parser.parse_args(["--size", "320"])
    assert "use WIDTHxHEIGHT" in capsys.readouterr().err
