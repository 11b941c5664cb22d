"""What a batch leaves on the disk: in place, when something goes wrong half-way, and when others write there, too."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data
from test_batch import restorer, tasks_of
from test_batch_find import write
from test_cli import conservator, process

from conservator import Decision, Observation, Request, Restorer, Toolbox
from conservator.batch import JOURNAL, FileRestorer, Job, Journal, Task, find_tasks, run_batch
from conservator.files import put_in_place, remove_leftovers, replacing, sha256, workspace
from conservator.perception import Blind
from conservator.photo import load_photo, save_photo
from conservator.record import load_record

_POSIX = pytest.mark.skipif(os.name != "posix", reason="modes and links are others elsewhere")
_1999 = 915_148_800.0


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def in_place(photo: Path, policy: str = "rules") -> None:
    summary = run_batch(
        tasks_of(photo, output=photo), restorer(policy), Journal(photo.with_name(JOURNAL)), overwrite=True
    )
    assert summary.exit_code == 0, summary.outcomes


@_POSIX
def test_in_place_mode_time_and_attributes_stay(noisy_file: Path) -> None:
    noisy_file.chmod(0o600)
    os.utime(noisy_file, (_1999, _1999))
    try:
        os.setxattr(noisy_file, "user.album", b"Graz")
        kept = b"Graz"
    except (OSError, AttributeError):
        kept = b""
    before = sha256(noisy_file)
    in_place(noisy_file)
    status = noisy_file.stat()
    assert sha256(noisy_file) != before
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_mtime == _1999
    if kept:
        assert os.getxattr(noisy_file, "user.album") == kept


@_POSIX
def test_a_new_result_has_the_usual_mode_and_the_time_of_its_photo(noisy_file: Path, tmp_path: Path) -> None:
    noisy_file.chmod(0o600)
    os.utime(noisy_file, (_1999, _1999))
    target = tmp_path / "out" / "noisy.png"
    before = os.umask(0o027)
    try:
        run_batch(tasks_of(noisy_file, output=target.parent), restorer("none"), Journal(tmp_path / JOURNAL))
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.stat().st_mtime == _1999
    assert load_record(target.with_name("noisy.conservator.json")).made > "2025"


@_POSIX
def test_in_place_a_link_stays_a_link_and_another_hard_link_keeps_the_old_bytes(
    noisy_file: Path, tmp_path: Path
) -> None:
    link, hard = tmp_path / "link.png", tmp_path / "hard.png"
    link.symlink_to(noisy_file)
    os.link(noisy_file, hard)
    before = noisy_file.read_bytes()
    in_place(link)
    assert link.is_symlink()
    assert noisy_file.read_bytes() == link.read_bytes() != before
    assert hard.read_bytes() == before


@_POSIX
def test_a_record_is_replaced_where_its_link_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to("real/a.txt")
    (tmp_path / "a.txt").chmod(0o640)
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real" / "a.txt").stat().st_mode) == 0o640


def test_in_place_the_photo_stays_when_the_record_cannot_be_written(noisy_file: Path) -> None:
    record = noisy_file.with_name("noisy.conservator.json")
    record.mkdir()
    (record / "mine").touch()
    before = tree(noisy_file.parent)
    task = Task(noisy_file, noisy_file)
    outcome = restorer()(Job(task, overwrite=True), print)
    assert outcome.status == "failed"
    assert outcome.message == f"cannot write {noisy_file}: Is a directory"
    assert tree(noisy_file.parent) == before


def test_files_take_their_places_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("old")
    (tmp_path / "third").mkdir()
    with workspace(tmp_path / "x") as folder:
        assert folder is not None
        for name in ("a", "b", "c"):
            (folder / name).write_text("new")
        moves = [(folder / new, tmp_path / old) for new, old in (("a", "first"), ("b", "second"), ("c", "third"))]
        with pytest.raises(OSError, match="directory"):
            put_in_place(moves)
    assert {p.name for p in tmp_path.iterdir()} == {"first", "third"}
    assert (tmp_path / "first").read_text() == "old"


_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from conservator.apps.cli import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the sizes of files")
@pytest.mark.parametrize("where", ["new", "in place"])
def test_a_record_that_does_not_fit_on_the_disk_takes_the_picture_back(tmp_path: Path, where: str) -> None:
    """The limit on the size of a file is between that of the pictures, 700 bytes or so, and that of records."""
    album = tmp_path / "album"
    for name in ("a.png", "b.png"):
        album.mkdir(exist_ok=True)
        PillowImage.new("RGB", (40, 30), (90, 120, 150)).save(album / name)
    before = tree(album)
    output = ("-o", album, "--overwrite") if where == "in place" else ("-o", tmp_path / "out")
    arguments = ["1500", "restore", album, *output, "--policy", "none"]
    command = [sys.executable, "-c", _LIMITED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "2 failed" in done.stdout
    assert "File too large" in done.stdout
    assert "Errno" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    folder = album if where == "in place" else tmp_path / "out"
    assert {name: content for name, content in tree(folder).items() if name != JOURNAL} == (
        before if where == "in place" else {}
    )


def a_folder_at_the_target(out: Path) -> None:
    (out / "a.jpg").mkdir()


def a_folder_at_the_record(out: Path) -> None:
    (out / "a.conservator.json").mkdir()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [(a_folder_at_the_target, "is a folder; move it"), (a_folder_at_the_record, "exists already; give --overwrite")],
)
@pytest.mark.parametrize("option", [(), ("--resume",)])
def test_what_stands_in_the_way_of_one_photo_stops_no_other(
    tmp_path: Path, prepare: Callable[[Path], None], words: str, option: tuple[str, ...]
) -> None:
    write(tmp_path / "in" / "a.jpg", tmp_path / "in" / "b.jpg")
    (tmp_path / "out").mkdir()
    prepare(tmp_path / "out")
    result = conservator("restore", tmp_path / "in", "-o", tmp_path / "out", "--policy", "none", *option)
    assert result.returncode == 1, result.stderr
    assert words in result.stdout
    assert (tmp_path / "out" / "b.jpg").read_bytes() == (tmp_path / "in" / "b.jpg").read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.skipif(sys.platform != "linux", reason="255 bytes is the longest name there")
@pytest.mark.parametrize("length", [238, 251])
def test_names_too_long_for_a_record_fail_in_a_sentence(tmp_path: Path, length: int) -> None:
    """A name of 238 letters and .png has room for .conservator.json; one of 251 fits the disk, its record does not."""
    write(tmp_path / "in" / "a.png", tmp_path / "in" / ("n" * length + ".png"))
    summary = run_batch(
        tasks_of(tmp_path / "in", output=tmp_path / "out"), restorer("none"), Journal(tmp_path / JOURNAL)
    )
    assert summary.count("untouched") == (2 if length == 238 else 1)
    assert summary.count("failed") == (0 if length == 238 else 1)
    assert all("File name too long" in o.message for o in summary.outcomes if o.status == "failed")
    assert not list((tmp_path / "out").glob("n*.png")) or length == 238


def unprivileged(*command: str) -> list[str]:
    """A command to which modes of files apply, also where the tests run as root."""
    if os.name != "posix":
        pytest.skip("modes of files are others elsewhere")
    if os.geteuid() != 0:
        return list(command)
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv here to give up root's privileges")
    dropped = "-dac_override,-dac_read_search"
    return ["setpriv", "--bounding-set", dropped, "--inh-caps", dropped, *command]


def test_what_may_not_be_read_or_written_costs_one_photo_and_a_closed_output_all(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jpg", tmp_path / "in" / "b.jpg", tmp_path / "in" / "sub" / "c.jpg")
    (tmp_path / "in" / "secret").mkdir(mode=0)
    (tmp_path / "in" / "a.jpg").chmod(0)
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub").chmod(0o555)
    (tmp_path / "closed").mkdir(mode=0o555)

    def run(output: str) -> subprocess.CompletedProcess[str]:
        command = process("restore", "in", "-o", output, "--policy", "none")
        return subprocess.run(unprivileged(*command), capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("out")
    assert done.returncode == 1, done.stderr
    assert "cannot read in/a.jpg: Permission denied" in done.stdout
    assert "cannot write out/sub/c.jpg: Permission denied" in done.stdout
    assert "in/secret: this folder may not be looked into" in done.stdout
    assert (tmp_path / "out" / "b.jpg").exists()
    closed = run("closed")
    assert (closed.returncode, closed.stdout) == (2, "")
    assert closed.stderr == "conservator: nothing can be written to closed (Permission denied)\n"


def test_a_photo_that_went_or_changed_meanwhile_fails_alone(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    tasks = tasks_of(tmp_path / "in", output=tmp_path / "out")
    (tmp_path / "in" / "a.png").unlink()
    summary = run_batch(tasks, restorer("none"), Journal(tmp_path / JOURNAL))
    assert [outcome.status for outcome in summary.outcomes] == ["failed", "untouched"]
    assert "No such file" in summary.outcomes[0].message

    def edit(stage: str) -> None:
        if stage == "writing":
            (tmp_path / "in" / "b.png").write_bytes(b"edited while it was in work")

    b = tmp_path / "in" / "b.png"
    outcome = restorer("none")(Job(Task(b, b), overwrite=True), edit)
    assert outcome.status == "kept"
    assert b.read_bytes() == b"edited while it was in work"


def test_overwriting_never_replaces_another_photo_of_the_batch(tmp_path: Path) -> None:
    write(tmp_path / "a.gif", tmp_path / "sub" / "a.png")
    before = (tmp_path / "sub" / "a.png").read_bytes()
    tasks = [Task(tmp_path / "a.gif", tmp_path / "sub" / "a.png"), Task(tmp_path / "sub" / "a.png", tmp_path / "o.png")]
    summary = run_batch(tasks, restorer("none"), Journal(tmp_path / JOURNAL), overwrite=True)
    assert "is itself one of the photos" in summary.outcomes[0].message
    assert (tmp_path / "sub" / "a.png").read_bytes() == before


def test_a_record_of_a_later_version_is_not_replaced_by_resuming(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    tasks, journal = tasks_of(tmp_path / "a.png", output=tmp_path / "out"), Journal(tmp_path / "out" / JOURNAL)
    run_batch(tasks, restorer("none"), journal)
    later = tasks[0].record.read_text().replace('"format_version": 3', '"format_version": 4')
    tasks[0].record.write_text(later)
    summary = run_batch(tasks, restorer("none"), journal, resume=True)
    assert summary.count("kept") == 1
    assert "a record that cannot be read, perhaps of a later version" in summary.outcomes[0].message
    assert tasks[0].record.read_text() == later


def test_resuming_needs_no_journal_and_not_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    monkeypatch.chdir(tmp_path)
    for given, output, journal in (
        (Path("in"), Path("out"), "out"),
        (tmp_path / "in", tmp_path / "out", "out"),
        (Path("in"), Path("out"), "new"),
    ):
        tasks = tasks_of(given, output=output)
        summary = run_batch(tasks, restorer("none"), Journal(tmp_path / journal / JOURNAL), resume=True)
    assert summary.count("skipped") == 2
    (tmp_path / "in" / "a.png").write_bytes((tmp_path / "in" / "b.png").read_bytes())  # scanned again
    again = run_batch(tasks, restorer("none"), Journal(tmp_path / "new" / JOURNAL), resume=True)
    assert (again.count("skipped"), again.count("untouched")) == (1, 1)
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "in" / "b.png").read_bytes()


def test_leftovers_of_killed_processes_go_and_what_is_being_written_stays(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from conservator.files import replacing, workspace\n"
        "with replacing(Path(sys.argv[1], 'a')) as file, workspace(Path(sys.argv[1], 'b')) as folder:\n"
        "    file.write(b'half'); file.flush(); (folder / 'half').touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "c") as file, workspace(tmp_path / "d") as folder:
        assert folder is not None
        (folder / "x").touch()
        file.write(b"whole")
        other = "import sys; from pathlib import Path; from conservator.files import remove_leftovers as clear\n"
        other += "clear([Path(sys.argv[1])])"
        subprocess.run([sys.executable, "-c", other, str(tmp_path)], check=True)
        remove_leftovers([tmp_path])  # in the same process, too
        assert (folder / "x").exists()
        assert len(list(tmp_path.iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert (tmp_path / "c").read_bytes() == b"whole"


@_POSIX
def test_clearing_up_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".x.conservator-part").symlink_to("precious")
    os.mkfifo(tmp_path / ".y.conservator-part")
    remove_leftovers([tmp_path])
    assert (tmp_path / "precious" / "file").exists()


def test_one_works_at_a_result_at_a_time(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (task,) = tasks_of(tmp_path / "a.png", output=tmp_path / "out")
    with workspace(task.record):
        assert restorer("none")(Job(task), print).message == "in work by another run"
    assert restorer("none")(Job(task), print).status == "untouched"


@pytest.mark.slow
def test_two_runs_share_a_folder_and_lose_and_double_nothing(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "in" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        noisy = data.coffee()[:100, :120] + np.random.default_rng(number).normal(0, 25, (100, 120, 3))
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    chosen = "--policy", "rules", "--toolbox", "classical", "--perception", "statistics", "--risk", 1
    command = process("restore", tmp_path / "in", "-o", tmp_path / "out", *chosen, "--resume")
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [run.communicate(timeout=250) for run in runs]
    assert all("Traceback" not in err for _, err in told)
    journal = Journal(tmp_path / "out" / JOURNAL)
    lines = journal.path.read_text().splitlines()
    events = list(journal.events())
    assert len(lines) == len(events)  # none is torn
    made = [event.target for event in events if event.status in ("restored", "untouched")]
    assert len(made) == len(set(made)) == 12
    for task in find_tasks([tmp_path / "in"], tmp_path / "out").tasks:
        assert load_record(task.record).output.sha256 == sha256(task.target)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_report_comes_and_goes_with_its_result(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (task,) = tasks_of(tmp_path / "a.png", output=tmp_path / "out")
    task.report.parent.mkdir()
    task.report.mkdir()
    outcome = replace(restorer("none"), report=True)(Job(task), print)
    assert (outcome.status, task.target.exists(), task.record.exists()) == ("failed", False, False)
    task.report.rmdir()
    assert replace(restorer("none"), report=True)(Job(task), print).status == "untouched"
    assert task.report.is_file()


@_POSIX
def test_saving_over_a_photo_keeps_its_mode(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0o600)
    save_photo(load_photo(tmp_path / "a.png"), tmp_path / "a.png", overwrite=True)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a small disk")
def test_on_a_full_disk_no_time_is_spent_on_treating(tmp_path: Path) -> None:
    class Spends:
        name = "spends"

        def act(self, observation: Observation) -> Decision:
            raise AssertionError("the photo was examined, for nothing")

    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    PillowImage.fromarray(noise).save(tmp_path / "large.png")
    (full := tmp_path / "full").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        tasks = [Task(tmp_path / "large.png", full / "large.png")]
        with Restorer(Request(risk=1), toolbox=Toolbox(), perception=Blind(), policy=Spends()) as spending:
            summary = run_batch(tasks, FileRestorer(spending), Journal(full / JOURNAL))
        assert summary.outcomes[0].message == f"cannot write {full / 'large.png'}: No space left on device"
        assert [path.name for path in full.iterdir()] == [JOURNAL]
    finally:
        subprocess.run(["umount", full], check=True)
