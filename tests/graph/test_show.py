"""Graphs for people: listings, tables, pictures, before and after."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from shoal import init, nn
from shoal.cli import main
from shoal.errors import CheckpointError
from shoal.ops.graph import show, trace
from shoal.ops.graph.compose import var
from shoal.ops.tensor import Tensor

SVG = "{http://www.w3.org/2000/svg}"


def made() -> show.Pair:
    net = nn.HybridSequential(nn.Dense(300, "gelu"), nn.Dense(2))
    net.initialize(init.Xavier())
    with trace.mode(training=True):
        return show.pair(net.trace(Tensor(np.ones((200, 4), "float32"))))


def test_a_table_counts_operators_before_and_after() -> None:
    lines = made().table().splitlines()
    row = {line.split()[0]: line.split()[1:] for line in lines}
    assert row["gelu"] == ["1", "0"] and row["fused"][0] == "0" and int(row["fused"][1]) > 0
    assert int(row["all"][0]) > int(row["all"][1])


def test_the_listing_has_both_graphs() -> None:
    text = made().text()
    assert text.startswith("# before: ") and "\n# after: " in text and "= fused(" in text


def test_the_picture_is_well_formed_and_has_a_box_for_each_call(tmp_path: Path) -> None:
    pair = made()
    pair.write_svg(tmp_path / "net.svg")
    root = ElementTree.parse(tmp_path / "net.svg").getroot()
    boxes = [g for g in root.iter(f"{SVG}g") if g.get("class")]
    calls = sum(1 for g in (pair.before, pair.after) for c in g.calls if c.op)
    assert sum("forward" in str(g.get("class")) or "backward" in str(g.get("class")) for g in boxes) == calls
    tips = [str(g.findtext(f"{SVG}title")) for g in boxes]
    assert any("test_show.py" in t and "(200, 300) float32" in t for t in tips)
    assert any("gelu(t" in t or "gelu(i" in t for t in tips)  # what is inside of a fused call


def test_boxes_do_not_overlap() -> None:
    root = ElementTree.fromstring(made().svg())
    for graph in (g for g in root if g.get("transform")):
        at = [str(g.get("transform")) for g in graph.iter(f"{SVG}g") if g.get("class")]
        assert len(at) == len(set(at))


def test_a_picture_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        made().write_svg(tmp_path / "no" / "such.svg")


def test_a_symbol_prints_itself_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    x = var("x", (2, 3))
    (x * 1.0 + 0.5).print()
    before, after = capsys.readouterr().out.split("# after")
    assert "multiply(x, 1.0)" in before and "multiply" not in after


def test_the_command_shows_models_and_exported_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "mlp", "--counts"]) == 0
    assert "fully_connected" in capsys.readouterr().out
    assert main(["graph", "mlp", "--forward", "--passes", "none"]) == 0
    assert "# before: " in capsys.readouterr().out
    net = nn.HybridSequential(nn.Dense(3, "relu"))
    net.initialize(init.Xavier())
    x = Tensor(np.ones((2, 4), "float32"))
    net(x)
    files = net.export(tmp_path / "net", x)
    assert main(["graph", str(files[0]), "--svg", str(tmp_path / "g.svg")]) == 0
    assert (tmp_path / "g.svg").read_text().startswith("<svg")
    assert main(["graph", "nothing"]) == 2
    assert "neither a file nor one of mlp" in capsys.readouterr().err
