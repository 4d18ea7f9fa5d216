"""The progress bar fits its terminal, and a pipe gets lines."""

import contextlib
import io

import pytest
from detectron2.utils.events import EventStorage

from finetune.training import progress
from finetune.training.progress import Metrics, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_on_a_terminal_and_in_a_pipe(monkeypatch, stream):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr(progress.sys, "stderr", stderr := stream())
    with contextlib.closing(Progress(1000, 1003)) as bar:
        for step in range(1001, 1004):
            bar.show(step, 123.4)
            bar.say("a line")
    text = stderr.getvalue()
    lines = text.replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines.count("a line") == 3
    assert ("\r" in text) == (stream is Terminal)
    assert "1003/1003" in text
    assert "\x1b[3" not in text, "no colors"


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_events_where_it_is_installed(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "find_spec", lambda name: installed or None)
    metrics = Metrics(tmp_path, start=0)
    with EventStorage() as storage:
        storage.put_scalar("loss", 1.0)
        storage.step()
        metrics.write()
    for writer in metrics.writers:
        writer.close()
    names = {path.name.partition(".tfevents")[0] for path in tmp_path.iterdir()}
    assert names == {"metrics.json"} | ({"events.out"} if installed else set())
