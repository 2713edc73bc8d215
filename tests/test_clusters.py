"""The files and the page for clusters: read by the tools that will read them, and true to the command line."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from paretosr.runs.cli import app
from paretosr.runs.recipe_schema import node_at

REPOSITORY = Path(__file__).resolve().parents[1]
CLUSTERS = REPOSITORY / "runs" / "clusters"
PAGE = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
SLURM = (CLUSTERS / "slurm.sbatch").read_text(encoding="utf-8")
LAUNCHER = yaml.safe_load((CLUSTERS / "ray-cluster.yaml").read_text(encoding="utf-8"))
MANIFESTS = [
    yaml.safe_load((CLUSTERS / f"kuberay-{name}.yaml").read_text(encoding="utf-8")) for name in ("volume", "rayjob")
]
COMMANDS = typer.main.get_group(app).commands
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
PINNED = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)


# ---- SLURM


@pytest.mark.parametrize("checker", [["bash", "-n"], [str(Path(sys.executable).with_name("shellcheck"))]])
def test_the_batch_file_is_sound_shell(checker):
    done = subprocess.run(
        [*checker, CLUSTERS / "slurm.sbatch"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_batch_file_asks_slurm_for_what_it_relies_on():
    """The signal before the wall time goes to the script alone, and is the one that it queues again for."""
    before_the_code = SLURM[: SLURM.index("\nset -u")]
    asked = re.findall(r"^#SBATCH (--\S+)$", before_the_code, re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--exclusive", "--ntasks-per-node=1"} <= set(asked)
    (signal,) = [option for option in asked if option.startswith("--signal")]
    name, seconds = re.fullmatch(r"--signal=B:(\w+)@(\d+)", signal).groups()  # type: ignore[union-attr]
    assert int(seconds) >= 60
    assert f"trap 'stop yes' {name}\n" in SLURM
    assert "#SBATCH" not in SLURM[len(before_the_code) :]


def test_the_batch_file_without_a_command_says_how_it_is_used():
    done = subprocess.run(["bash", CLUSTERS / "slurm.sbatch"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch ")


# ---- Ray's launcher


def test_the_launcher_takes_the_cluster_file():
    config = prepare_config(LAUNCHER)  # which fills in what a local cluster has
    validate_config(config)
    (kind,) = config["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(LAUNCHER["provider"]["worker_ips"])


def test_the_launcher_uploads_nothing_and_joins_the_nodes():
    assert LAUNCHER["file_mounts"] == {}
    head, worker = LAUNCHER["head_start_ray_commands"][-1], LAUNCHER["worker_start_ray_commands"][-1]
    port = re.search(r"--head --port=(\d+)", head)
    assert port
    assert f"--address=$RAY_HEAD_IP:{port[1]}" in worker


# ---- Kubernetes


def pods():
    """The pods of the cluster by what they are: the head, and each group of workers."""
    cluster = MANIFESTS[1]["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **groups}


def test_the_manifest_is_a_job_that_goes_on():
    assert [(m["apiVersion"], m["kind"]) for m in MANIFESTS] == [
        ("v1", "PersistentVolumeClaim"),
        ("ray.io/v1", "RayJob"),
    ]
    job = MANIFESTS[1]["spec"]
    assert job["entrypoint"].endswith(" --ray auto")
    assert job["backoffLimit"] > 0
    assert job["shutdownAfterJobFinishes"] is True
    assert "runtimeEnvYAML" not in job
    assert job["rayClusterSpec"]["rayVersion"] == PINNED["ray"]


def test_all_pods_have_one_image_and_the_shared_volume():
    claim = MANIFESTS[0]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for spec in pods().values():
        (container,) = spec["containers"]
        assert container["image"].endswith(f"/paretosr:{VERSION}")
        claims = {v["name"]: v.get("persistentVolumeClaim", {}).get("claimName") for v in spec["volumes"]}
        mounts = {m["mountPath"]: claims[m["name"]] for m in container["volumeMounts"]}
        assert mounts == {"/shared": claim["metadata"]["name"], "/dev/shm": None}
        assert MANIFESTS[1]["spec"]["entrypoint"].count("/shared/") == 2


def test_workers_have_whole_gpus_of_one_kind_and_a_cpu_for_each_training():
    for name, spec in pods().items():
        limits = spec["containers"][0]["resources"]["limits"]
        assert limits == spec["containers"][0]["resources"]["requests"]
        if name != "head":
            assert int(limits["nvidia.com/gpu"]) <= int(limits["cpu"])
            assert "nvidia.com/gpu.product" in spec["nodeSelector"]


# ---- what they say of ParetoSR


def called():
    """Every call of the command line in the files and on the page, as its words."""
    texts = [PAGE, SLURM, *(file.read_text() for file in CLUSTERS.glob("*.yaml"))]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    calls = [re.search(r"(?:paretosr|slurm\.sbatch) ((?:search|[a-z]+(?= /)) .*)", line) for line in lines]
    return [call[1].split("#")[0].replace("'", " ").split() for call in calls if call]


def test_commands_and_options_exist():
    assert len(called()) > 10
    for command, *words in called():
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, (command, words)


def test_recipe_keys_exist():
    keys = set(re.findall(r"`((?:search|train|latency|data)\.[a-z_.]+)`", PAGE))
    keys |= set(re.findall(r"--set[ \n]([a-z_.]+)=", PAGE))
    assert len(keys) > 5
    for key in keys:
        assert node_at(tuple(key.split("."))) is not None, key


def test_versions_and_links_are_current():
    names = re.findall(r"paretosr-([\d.]+)-py3", PAGE + "".join(map(str, LAUNCHER["setup_commands"])))
    assert set(names) == {VERSION}
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert {f"../runs/clusters/{file.name}" for file in CLUSTERS.iterdir()} <= set(links)
    for link in links:
        assert (REPOSITORY / "docs" / link).exists(), link
    assert "(docs/cluster.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
