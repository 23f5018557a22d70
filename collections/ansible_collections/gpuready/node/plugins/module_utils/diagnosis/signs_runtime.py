# Apache-2.0 (see LICENSE)
"""Signs of the container runtime: Docker, the toolkit, the image, the request, what is in the container."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..versions import at_least
from .facts import Facts
from .signs import UNKNOWN, Sign, ask, no, sign, speaking, yes

DOCKER = "gpu_stack.container_runtime.docker"
TOOLKIT = "gpu_stack.container_runtime.toolkit"
CDI = "gpu_stack.container_runtime.cdi"
HOOK = "nvidia-container-runtime-hook"
#: The first Docker whose client knows --gpus.
GPUS_SINCE = "19.03"
#: The first libnvidia-container that can grant devices on a machine with cgroup v2 only.
CGROUP2_SINCE = "1.8.0"
#: Below this, dockerd cannot even unpack the smallest image.
DISK_FLOOR_MIB = 300
NOTHING = tuple(hashlib.sha256(data).hexdigest() for data in (b"", b"\n", b" ", b"\r\n"))
_NUMBER = re.compile(r"\d+(?:\.\d+)+")
_UNREADABLE = re.compile(r"(?i)permission denied|is a directory|no such file")
_END_OF_FILE = re.compile(r"(?:^|: )EOF$")
_GPU_NODE = re.compile(r"^/dev/nvidia\d+$")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "arm64v8": "arm64"}

# dockerd's options (docs.docker.com, reference/cli/dockerd). Any other key keeps it from starting.
KNOWN_OPTIONS = frozenset(
    re.findall(
        r"\S+",
        """
        allow-direct-routing allow-nondistributable-artifacts api-cors-header authorization-plugins
        bip bip6 bridge bridge-accept-fwmark builder cdi-spec-dirs cgroup-parent cluster-advertise
        cluster-store cluster-store-opts containerd containerd-namespace
        containerd-plugins-namespace containerd-plugin-namespace cpu-rt-period cpu-rt-runtime
        data-root debug default-address-pools default-cgroupns-mode default-gateway
        default-gateway-v6 default-ipc-mode default-network-opts default-runtime default-shm-size
        default-ulimit default-ulimits deprecated-key-path disable-legacy-registry dns dns-opts
        dns-search exec-opts exec-root experimental features firewall-backend fixed-cidr
        fixed-cidr-v6 graph group host-gateway-ip host-gateway-ips hosts http-proxy https-proxy icc
        init init-path insecure-registries ip ip-forward ip-forward-no-drop ip-masq ip6tables
        iptables ipv6 isolation labels live-restore log-driver log-format log-level log-opts
        max-concurrent-downloads max-concurrent-uploads max-download-attempts metrics-addr
        min-api-version mtu network-control-plane-mtu network-diagnostic-port no-new-privileges
        no-proxy node-generic-resources nri-opts oom-score-adjust pidfile proxies raw-logs registry-mirrors
        rootless runtimes seccomp-profile selinux-enabled shutdown-timeout storage-driver
        storage-opts swarm-default-advertise-addr time-precision tls tlscacert tlscert tlskey
        tlsverify ulimits userland-proxy userland-proxy-path userns-remap validate
        """,
    )
)
# Flags whose key in the file has another name.
_FLAG_KEYS = {
    "H": "hosts",
    "host": "hosts",
    "D": "debug",
    "G": "group",
    "b": "bridge",
    "g": "data-root",
    "graph": "data-root",
    "l": "log-level",
    "p": "pidfile",
    "s": "storage-driver",
    "add-runtime": "runtimes",
    "authorization-plugin": "authorization-plugins",
    "cdi-spec-dir": "cdi-spec-dirs",
    "default-address-pool": "default-address-pools",
    "default-ulimit": "default-ulimits",
    "dns-opt": "dns-opts",
    "dns-search": "dns-search",
    "exec-opt": "exec-opts",
    "insecure-registry": "insecure-registries",
    "label": "labels",
    "log-opt": "log-opts",
    "node-generic-resource": "node-generic-resources",
    "registry-mirror": "registry-mirrors",
    "storage-opt": "storage-opts",
}


# -- reading the facts -----------------------------------------------------------------------------


def there(facts: Facts, path: str) -> bool | None:
    """Whether something is there: a mapping or a text is; false, and an observation's null, is not."""
    value = facts.get(path)
    if value is None:
        return False if facts.observed and facts.get(path.rpartition(".")[0]) is not None else None
    return value is not False


def truth(facts: Facts, path: str, name: str) -> Sign:
    """A fact that is a truth value itself."""
    value = facts.get(path)
    if value is None:
        return UNKNOWN
    return yes(f"{name}: yes") if value else no(f"{name}: no")


def plain_version(text: Any) -> str | None:
    found = _NUMBER.search(str(text or "").split(":", 1)[-1])
    return found.group(0) if found else None


def docker_version(facts: Facts) -> str | None:
    return plain_version(facts.get(f"{DOCKER}.live.server_version") or facts.get(f"{DOCKER}.version"))


def packages(facts: Facts) -> dict[str, Mapping[str, Any]]:
    """The toolkit's installed packages by name."""
    return {
        str(row.get("name")): row
        for row in facts.rows(f"{TOOLKIT}.packages")
        if row.get("status") in (None, "installed")
    }


def planned(facts: Facts, action: str) -> bool:
    return any(row.get("id") == action for row in facts.rows("plan.actions"))


def refused(facts: Facts, conflict: str) -> list[str]:
    """The evidence of a conflict of the plan; empty when there is none."""
    return [
        text
        for row in facts.rows("plan.conflicts")
        if row.get("id") == conflict
        for text in (str(row.get("what") or conflict), *map(str, row.get("because") or []))
    ]


def way(facts: Facts) -> str | None:
    """How the container gets (or should get) its GPU: gpus, runtime or cdi; None when nobody says."""
    requests = facts.get("container.requests") or {}
    if requests.get("cdi_devices"):
        return "cdi"
    if requests.get("gpus"):
        return "gpus"
    if str(requests.get("runtime") or "").startswith("nvidia"):
        return "runtime"
    if requests and requests.get("gpus") is False:
        return None
    return facts.get("verification.launch.way") or facts.get("plan.container_runtime.launch.way")


def cdi_specs(facts: Facts) -> list[Mapping[str, Any]] | None:
    """The specifications of NVIDIA GPUs, those that cannot be read included; None when unknown."""
    if facts.get(f"{CDI}.specs") is None:
        return None
    rows = facts.rows(f"{CDI}.specs")
    return [row for row in rows if row.get("kind") in (None, "nvidia.com/gpu")]


def effective_specs(facts: Facts) -> list[Mapping[str, Any]]:
    """Those that count: a device in /var/run/cdi hides its namesake in /etc/cdi."""
    specs = [row for row in cdi_specs(facts) or [] if row.get("kind")]
    runtime = [row for row in specs if str(row.get("path")).startswith(("/var/run/", "/run/"))]
    return runtime or specs


def container_environment(facts: Facts) -> dict[str, str] | None:
    """The container's own variables: what NVIDIA's runtime reads, whatever the program in it has set."""
    return facts.variables("container.env")


def proven(facts: Facts) -> bool:
    """The last verification got its GPU all the way into a container's framework."""
    return facts.get("verification.ok") is True and facts.get("verification.place") != "host"


def container_has_gpu(facts: Facts) -> bool | None:
    """Whether the container that is asked about sees a GPU, by whatever was looked at in it."""
    if facts.get("container") is None and facts.get("framework.place") != "container":
        return None
    smi, nodes = facts.get("container.nvidia_smi.ok"), facts.get("container.device_nodes")
    framework = facts.get("framework") if facts.get("framework.place") != "host" else None
    framework = framework or {}
    listed, available = framework.get("gpus_listed"), framework.get("available")
    if smi is True or available is True or (listed or 0) > 0:
        return True
    if smi is False or available is False or listed == 0:
        return False
    if isinstance(nodes, (list, tuple)):
        return any(_GPU_NODE.match(str(node)) for node in nodes)
    return None


def options_given(command: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """(key in daemon.json, flag) of a dockerd's command line."""
    for word in command[1:]:
        found = re.match(r"^(?:--([a-z0-9-]+)|-([A-Za-z]))(?:=|$)", str(word))
        if found:
            name = found.group(1) or found.group(2)
            yield _FLAG_KEYS.get(name, name), str(word).split("=", 1)[0]


# -- the engine ------------------------------------------------------------------------------------


@sign("docker.installed", "Docker is installed")
def _docker_installed(facts: Facts) -> Sign:
    value = facts.get(f"{DOCKER}.installed")
    if value is None:
        return yes("docker answers") if facts.get(f"{DOCKER}.live.reachable") else UNKNOWN
    package = facts.get(f"{DOCKER}.package")
    return (
        yes(f"Docker {facts.get(f'{DOCKER}.version') or ''} ({package or 'not a package'})")
        if value
        else no("no dockerd was found")
    )


@sign("docker.running", "dockerd answers")
def _docker_running(facts: Facts) -> Sign:
    reachable = facts.get(f"{DOCKER}.live.reachable")
    if reachable:
        return yes(f"dockerd {docker_version(facts) or ''} answers".replace("  ", " "))
    if reachable is False:
        return no(f"dockerd does not answer: {facts.get(f'{DOCKER}.live.error') or 'no reason given'}")
    active = facts.get(f"{DOCKER}.service.active")
    if active is None:
        return UNKNOWN
    return yes("docker.service is active") if active else no("docker.service is not active")


@sign("docker.unreachable", "dockerd does not answer")
def _docker_unreachable(facts: Facts) -> Sign:
    state, evidence = ask("docker.running", facts)
    return Sign(None if state is None else not state, evidence)


@sign("docker.observed_down", "a look at the node has found dockerd not answering")
def _docker_observed_down(facts: Facts) -> Sign:
    """What is said of pulls and containers is then of another time."""
    if not facts.observed:
        return UNKNOWN
    return ask("docker.unreachable", facts)


@sign("docker.socket_denied", "this user may not open Docker's socket")
def _socket_denied(facts: Facts) -> Sign:
    error = facts.get(f"{DOCKER}.live.error")
    if not error:
        return no("dockerd answers") if facts.get(f"{DOCKER}.live.reachable") else UNKNOWN
    if "permission denied" in str(error).lower():
        return yes(str(error))
    return no(str(error))


@sign("docker.snap", "Docker comes from a snap")
def _docker_snap(facts: Facts) -> Sign:
    value = facts.get(f"{DOCKER}.snap")
    if value and facts.get(f"{DOCKER}.package"):
        return no(f"the package {facts.get(f'{DOCKER}.package')} is what runs")
    return truth(facts, f"{DOCKER}.snap", "Docker from a snap")


@sign("docker.rootless", "dockerd runs rootless")
def _docker_rootless(facts: Facts) -> Sign:
    options = facts.get(f"{DOCKER}.live.security_options")
    if any("rootless" in str(option) for option in options or []):
        return yes("docker info shows the security option rootless")
    return truth(facts, f"{DOCKER}.rootless", "rootless dockerd")


@sign("docker.desktop", "the containers run in Docker Desktop's virtual machine")
def _docker_desktop(facts: Facts) -> Sign:
    context = str(facts.get(f"{DOCKER}.context") or "")
    if "desktop" in context:
        return yes(f"docker's context is {context}")
    return truth(facts, "platform.docker_desktop", "Docker Desktop")


@sign("docker.desktop_linux", "Docker Desktop runs on Linux or a Mac, where it has no NVIDIA GPUs to give")
def _docker_desktop_linux(facts: Facts) -> Sign:
    state, evidence = ask("docker.desktop", facts)
    system = facts.get("platform.os")
    if not state or facts.get("platform.wsl") or system == "windows":
        return Sign(False if state is not None else None, evidence)
    return yes(*evidence, f"on {system}") if system in ("linux", "darwin", "macos") else UNKNOWN


@sign("host.lxc", "the host itself is an LXC container")
def _host_lxc(facts: Facts) -> Sign:
    found = facts.get("gpu_stack.host.virtual")
    if found is None:
        return UNKNOWN
    text = f"systemd-detect-virt: {found}"
    return yes(text) if str(found) in ("lxc", "lxc-libvirt", "lxd", "systemd-nspawn") else no(text)


@sign("docker.podman", "podman answers in the place of docker")
def _docker_podman(facts: Facts) -> Sign:
    if facts.get("container.way") == "podman":
        return yes("the container is podman's")
    if facts.get("container.way") is not None:
        return no(f"the container is run by {facts.get('container.way')}")
    return truth(facts, f"{DOCKER}.podman", "docker is podman's emulation")


@sign("docker.too_old", f"Docker is older than {GPUS_SINCE}, which brought --gpus")
def _docker_too_old(facts: Facts) -> Sign:
    version = docker_version(facts)
    if not version:
        return UNKNOWN
    return no(f"Docker {version}") if at_least(version, GPUS_SINCE) else yes(f"Docker {version}")


@sign("docker.context_elsewhere", "the docker command talks to another engine than this machine's")
def _context_elsewhere(facts: Facts) -> Sign:
    host, context = facts.get(f"{DOCKER}.docker_host"), facts.get(f"{DOCKER}.context")
    if (
        host
        and not str(host).startswith("unix:///var/run/")
        and not str(host).startswith("unix:///run/docker")
    ):
        return yes(f"DOCKER_HOST is {host}")
    # Rootless Docker and Docker Desktop have causes of their own.
    if context and context not in ("default", "rootless") and "desktop" not in str(context):
        return yes(f"docker's context is {context}")
    return no("the context is the default one") if context else UNKNOWN


@sign("docker.userns_remap", "dockerd maps container users to others (userns-remap)")
def _userns_remap(facts: Facts) -> Sign:
    value = facts.get(f"{DOCKER}.daemon_json.content.userns-remap")
    if value:
        return yes(f"daemon.json: userns-remap is {value}")
    options = facts.get(f"{DOCKER}.live.security_options")
    if options is not None:
        named = any("userns" in str(option) for option in options)
        return yes("docker info shows userns") if named else no("docker info shows no userns")
    return (
        no("daemon.json has no userns-remap")
        if facts.get(f"{DOCKER}.daemon_json.content") is not None
        else UNKNOWN
    )


@sign("daemon_json.broken", "daemon.json is not a JSON object that dockerd takes")
def _daemon_json_broken(facts: Facts) -> Sign:
    valid, exists = facts.get(f"{DOCKER}.daemon_json.valid"), facts.get(f"{DOCKER}.daemon_json.exists")
    if valid is None:
        return no("there is no daemon.json") if exists is False else UNKNOWN
    if valid:
        return no("daemon.json is valid JSON")
    error = str(facts.get(f"{DOCKER}.daemon_json.error") or "it is not JSON")
    text = f"{facts.get(f'{DOCKER}.daemon_json.path') or 'daemon.json'}: {error}"
    # It is not there to be read, or there is nothing in it: causes of their own.
    return no(text) if _UNREADABLE.search(error) or _END_OF_FILE.search(error) else yes(text)


def _daemon_json_error(facts: Facts, pattern: str) -> Sign:
    broken = ask("daemon_json.broken", facts)
    if broken.state is not True:
        return broken
    error = str(facts.get(f"{DOCKER}.daemon_json.error") or "")
    return yes(*broken.evidence) if re.search(pattern, error) else no(*broken.evidence)


@sign("daemon_json.byte_order_mark", "daemon.json starts with a byte order mark")
def _daemon_json_bom(facts: Facts) -> Sign:
    # gpuready's own words, and dockerd's.
    return _daemon_json_error(facts, r"byte order mark|invalid character .(?:ï|\\u?feff|þ|ÿ)")


@sign("daemon_json.repeated_key", "daemon.json has one key twice")
def _daemon_json_repeated(facts: Facts) -> Sign:
    return _daemon_json_error(facts, r"appears twice")


@sign("daemon_json.unreadable", "daemon.json cannot be read")
def _daemon_json_unreadable(facts: Facts) -> Sign:
    file = facts.get(f"{DOCKER}.daemon_json")
    if not isinstance(file, Mapping) or file.get("exists") is None:
        return UNKNOWN
    denied = _UNREADABLE.search(str(file.get("error") or ""))
    if file.get("exists") and file.get("error") and (file.get("valid") is None or denied):
        return yes(f"{file.get('path')}: {file.get('error')}")
    return no(f"{file.get('path')} can be read" if file.get("exists") else "there is no daemon.json")


@sign("daemon_json.empty", "daemon.json is an empty file")
def _daemon_json_empty(facts: Facts) -> Sign:
    if _END_OF_FILE.search(str(facts.get(f"{DOCKER}.daemon_json.error") or "")):
        return yes("dockerd found the end of the file at once")
    digest = facts.get(f"{DOCKER}.daemon_json.sha256")
    if digest is None:
        return (
            no("there is no daemon.json") if facts.get(f"{DOCKER}.daemon_json.exists") is False else UNKNOWN
        )
    path = facts.get(f"{DOCKER}.daemon_json.path")
    return yes(f"{path} holds nothing") if digest in NOTHING else no(f"{path} has content")


@sign("daemon_json.flag_conflict", "daemon.json sets what dockerd's command line sets, too")
def _flag_conflict(facts: Facts) -> Sign:
    content, command = facts.get(f"{DOCKER}.daemon_json.content"), facts.get(f"{DOCKER}.service.exec_start")
    if not isinstance(content, Mapping) or not command:
        return (
            no("there is no daemon.json") if facts.get(f"{DOCKER}.daemon_json.exists") is False else UNKNOWN
        )
    both = [
        f"{key} is in daemon.json, and {flag} on dockerd's command line"
        for key, flag in options_given(command)
        if key in content
    ]
    return yes(*both) if both else no("no option of daemon.json is given as a flag")


@sign("daemon_json.unknown_option", "daemon.json has a key that is no option of dockerd")
def _unknown_option(facts: Facts) -> Sign:
    content = facts.get(f"{DOCKER}.daemon_json.content")
    if not isinstance(content, Mapping):
        return (
            no("there is no daemon.json") if facts.get(f"{DOCKER}.daemon_json.exists") is False else UNKNOWN
        )
    if not content:
        return no("daemon.json sets nothing")
    foreign = [str(key) for key in content if key not in KNOWN_OPTIONS]
    return (
        yes(*(f"dockerd has no option {key}" for key in foreign)) if foreign else no("every key is an option")
    )


@sign("link.engine", "Docker runs, with a configuration that holds")
def _link_engine(facts: Facts) -> Sign:
    faults = speaking(
        facts,
        "docker.snap",
        "docker.rootless",
        "docker.too_old",
        "daemon_json.broken",
        "daemon_json.unreadable",
    )
    for name in ("docker.installed", "docker.running"):
        state, evidence = ask(name, facts)
        if state is False:
            faults += evidence
            break
    if ask("docker.unreachable", facts).state:
        state, evidence = ask("daemon_json.flag_conflict", facts)
        faults += evidence if state else ()
    if faults:
        return no(*faults)
    running = ask("docker.running", facts)
    return running if running.state or not proven(facts) else yes("the verification ran a container")


# -- the toolkit -----------------------------------------------------------------------------------


@sign("toolkit.installed", "the container toolkit is installed")
def _toolkit_installed(facts: Facts) -> Sign:
    rows = packages(facts)
    if "nvidia-container-toolkit" in rows:
        return yes(
            f"nvidia-container-toolkit {rows['nvidia-container-toolkit'].get('version') or ''}".rstrip()
        )
    hook = facts.get(f"{TOOLKIT}.binaries.{HOOK}")
    version = facts.get(f"{TOOLKIT}.version")
    # Its base package alone has nvidia-ctk, and brings no GPU into a container.
    alone = facts.observed and facts.get(f"{TOOLKIT}.packages") is not None
    if hook or (version and not alone):
        return yes(f"{hook or 'nvidia-ctk'} {version or ''}".rstrip())
    if there(facts, f"{TOOLKIT}.binaries.{HOOK}") is False or facts.get(f"{TOOLKIT}.packages") == []:
        return no(f"neither the package nvidia-container-toolkit nor {HOOK} is there")
    return UNKNOWN


@sign("toolkit.package_installed", "dpkg calls the toolkit's package installed")
def _toolkit_package(facts: Facts) -> Sign:
    if "nvidia-container-toolkit" in packages(facts):
        return yes("nvidia-container-toolkit is installed")
    if facts.get(f"{TOOLKIT}.packages") == [] or (
        facts.observed and facts.get(f"{TOOLKIT}.packages") is not None
    ):
        return no("nvidia-container-toolkit is not installed")
    return UNKNOWN


@sign("toolkit.files_missing", "the toolkit's package is installed, but not all of its programs are there")
def _toolkit_files_missing(facts: Facts) -> Sign:
    package = ask("toolkit.package_installed", facts)
    binaries = facts.get(f"{TOOLKIT}.binaries")
    if package.state is not True:
        return Sign(package.state, package.evidence)
    if not isinstance(binaries, Mapping):
        return UNKNOWN
    wanted = facts.catalog.toolkit.binaries if facts.catalog else (HOOK,)
    absent = [
        name
        for name in wanted
        if name in binaries and (binaries[name] is False or (binaries[name] is None and facts.observed))
    ]
    if absent:
        return yes(*(f"{name} is not there" for name in absent))
    return no("its programs are there") if facts.observed else UNKNOWN


@sign("toolkit.incomplete", "the toolkit's four packages are not all there, or of several versions")
def _toolkit_incomplete(facts: Facts) -> Sign:
    if not facts.catalog or facts.get(f"{TOOLKIT}.packages") is None:
        return UNKNOWN
    names = facts.catalog.toolkit.packages
    # What dpkg has by halves is there; that it is half there is another matter (packages.interrupted).
    rows = {
        str(row.get("name")): row
        for row in facts.rows(f"{TOOLKIT}.packages")
        if row.get("name") in names and row.get("status") not in ("not-installed", "config-files")
    }
    versions = {str(row.get("version")) for row in rows.values() if row.get("version")}
    # Before 1.10 the packages had versions of their own, and a text may show an old machine's.
    if not facts.observed and not all(at_least(version, "1.10") for version in versions):
        return UNKNOWN
    if len(versions) > 1:
        return yes(*(f"{name} {row.get('version')}" for name, row in sorted(rows.items())))
    if not facts.observed or not rows:
        return UNKNOWN if not facts.observed else no("none of its packages is installed")
    absent = [name for name in names if name not in rows]
    return (
        yes(*(f"{name} is not installed" for name in absent))
        if absent
        else no("its packages are of one version")
    )


@sign("toolkit.works", "a container was given a GPU by the toolkit")
def _toolkit_works(facts: Facts) -> Sign:
    if proven(facts):
        return yes("the verification's container had its GPU")
    answer = facts.get("probes.with_gpu")
    if not isinstance(answer, Mapping) or answer.get("ran") is False:
        return UNKNOWN
    if facts.get("probes.with_gpu.nvidia_smi.ok") and answer.get("exit_code") in (0, None):
        return yes("nvidia-smi works in a container with --gpus")
    return UNKNOWN


@sign("toolkit.legacy", "packages of nvidia-docker2's time are installed")
def _toolkit_legacy(facts: Facts) -> Sign:
    if facts.get(f"{TOOLKIT}.packages") is None:
        return UNKNOWN
    legacy = facts.catalog.toolkit.legacy_packages if facts.catalog else ("nvidia-docker2",)
    found = [
        f"{name} {row.get('version') or ''}".rstrip()
        for name, row in packages(facts).items()
        if name in legacy
    ]
    if found:
        return yes(*found)
    return no("none of them is installed") if facts.observed else UNKNOWN


@sign("toolkit.legacy_beside_new", "an old nvidia-docker2 is installed beside a current toolkit")
def _toolkit_legacy_beside_new(facts: Facts) -> Sign:
    """The last releases (2.14, 3.14) were empty shells; older ones came with parts of their own."""
    rows = packages(facts)
    current = plain_version((rows.get("nvidia-container-toolkit") or {}).get("version"))
    if not current or not at_least(current, "1.14"):
        return UNKNOWN
    last = {"nvidia-docker2": "2.14", "nvidia-container-runtime": "3.14"}
    found = [
        f"{name} {rows[name].get('version')} beside nvidia-container-toolkit {current}"
        for name, floor in last.items()
        if name in rows and not at_least(plain_version(rows[name].get("version")) or floor, floor)
    ]
    return yes(*found) if found else UNKNOWN


@sign("toolkit.newer_than_dockerd", "the toolkit's hook came after dockerd had started")
def _toolkit_newer(facts: Facts) -> Sign:
    value = facts.get(f"{TOOLKIT}.hook_newer_than_dockerd")
    if value is None:
        return UNKNOWN
    hook = facts.get(f"{TOOLKIT}.binaries.{HOOK}") or HOOK
    return (
        yes(f"{hook} is younger than the running dockerd")
        if value
        else no(f"dockerd started after {hook} came")
    )


@sign("toolkit.off_dockerd_path", "the toolkit's hook is not on the PATH of dockerd")
def _toolkit_off_path(facts: Facts) -> Sign:
    value, hook = facts.get(f"{TOOLKIT}.hook_on_dockerd_path"), facts.get(f"{TOOLKIT}.binaries.{HOOK}")
    if value is None or (value is False and not hook):
        return UNKNOWN
    return no(f"{hook or HOOK} is on dockerd's PATH") if value else yes(f"{hook} is not on dockerd's PATH")


@sign("toolkit.other_mode", "the toolkit is set to a mode in which docker's --gpus is refused")
def _toolkit_other_mode(facts: Facts) -> Sign:
    mode = facts.get(f"{TOOLKIT}.config.mode")
    if mode is None:
        return UNKNOWN
    text = f"config.toml: mode = {mode}"
    # jit-cdi and auto take --gpus along; these two refuse to be called as a hook.
    return yes(text) if mode in ("cdi", "csv") else no(text)


def _toolkit_settings_known(facts: Facts) -> bool:
    """An observation that shows no configuration has seen that there is no file: the defaults count."""
    if facts.get(f"{TOOLKIT}.config.path"):
        return True
    return facts.observed and facts.get(TOOLKIT) is not None


@sign("toolkit.no_cgroups", "the toolkit is told to leave the device cgroup alone (no-cgroups)")
def _toolkit_no_cgroups(facts: Facts) -> Sign:
    value = facts.get(f"{TOOLKIT}.config.no_cgroups")
    if value is None:
        return no("no-cgroups is not set") if _toolkit_settings_known(facts) else UNKNOWN
    return yes("config.toml: no-cgroups = true") if value else no("config.toml: no-cgroups = false")


@sign("toolkit.ldconfig_missing", "the toolkit's configuration names an ldconfig that is not there")
def _toolkit_ldconfig(facts: Facts) -> Sign:
    value = facts.get(f"{TOOLKIT}.config.ldconfig_exists")
    value = facts.get(f"{TOOLKIT}.ldconfig_exists") if value is None else value
    name = facts.get(f"{TOOLKIT}.config.ldconfig")
    if value is None:
        return UNKNOWN
    return no(f"{name} is there") if value else yes(f"config.toml: ldconfig = {name}, which is not there")


@sign("toolkit.envvar_refused", "the toolkit ignores NVIDIA_VISIBLE_DEVICES of unprivileged containers")
def _toolkit_envvar(facts: Facts) -> Sign:
    value = facts.get(f"{TOOLKIT}.config.accept_envvar_unprivileged")
    if value is None:
        return no("that is not set") if _toolkit_settings_known(facts) else UNKNOWN
    text = "config.toml: accept-nvidia-visible-devices-envvar-when-unprivileged = "
    return no(text + "true") if value else yes(text + "false")


@sign("toolkit.driver_root", "the toolkit looks for the driver in another root than /")
def _toolkit_driver_root(facts: Facts) -> Sign:
    if not _toolkit_settings_known(facts):
        return UNKNOWN
    root = facts.get(f"{TOOLKIT}.config.root")
    return yes(f"config.toml: root = {root}") if root not in (None, "", "/") else no("its root is /")


@sign("toolkit.too_old_for_cgroup2", "the toolkit is too old for a machine with cgroup v2")
def _toolkit_cgroup2(facts: Facts) -> Sign:
    version = plain_version(facts.get(f"{TOOLKIT}.version"))
    if version is None:
        row = packages(facts).get("libnvidia-container1") or packages(facts).get("libnvidia-container-tools")
        version = plain_version((row or {}).get("version"))
    cgroup = facts.get(f"{DOCKER}.live.cgroup_version")
    if version is None or (cgroup is None and not at_least(version, CGROUP2_SINCE)):
        return UNKNOWN
    text = f"toolkit {version}, cgroup v{cgroup}"
    return yes(text) if str(cgroup) == "2" and not at_least(version, CGROUP2_SINCE) else no(text)


@sign("runtime.configured", "daemon.json names the runtime nvidia")
def _runtime_configured(facts: Facts) -> Sign:
    file = facts.get(f"{DOCKER}.daemon_json")
    if not isinstance(file, Mapping):
        return UNKNOWN
    flags = [str(word) for word in facts.get(f"{DOCKER}.service.exec_start") or []]
    if any("add-runtime" in flag and "nvidia" in flag for flag in flags) or any(
        one == "--add-runtime" and other.startswith("nvidia=") for one, other in pairwise(flags)
    ):
        return yes("dockerd's command line names it")
    runtimes = file.get("runtimes")
    content = file.get("content")
    if not runtimes and isinstance(content, Mapping):
        runtimes = content.get("runtimes")
    if isinstance(runtimes, Mapping) and "nvidia" in runtimes:
        return yes(f"{file.get('path')} has runtimes.nvidia")
    if file.get("exists") is False:
        return no(f"there is no {file.get('path') or 'daemon.json'}")
    if file.get("valid") or isinstance(content, Mapping):
        return no(f"{file.get('path') or 'daemon.json'} has no runtimes.nvidia")
    return UNKNOWN


@sign("runtime.live", "the running dockerd knows the runtime nvidia")
def _runtime_live(facts: Facts) -> Sign:
    runtimes = facts.get(f"{DOCKER}.live.runtimes")
    if runtimes is None:
        return UNKNOWN
    text = "dockerd runs with: " + (", ".join(map(str, runtimes)) or "no runtimes")
    return yes(text) if "nvidia" in runtimes else no(text)


@sign("runtime.not_live", "the running dockerd does not know the runtime nvidia")
def _runtime_not_live(facts: Facts) -> Sign:
    state, evidence = ask("runtime.live", facts)
    return Sign(None if state is None else not state, evidence)


@sign("runtime.default", "nvidia is dockerd's default runtime")
def _runtime_default(facts: Facts) -> Sign:
    value = facts.get(f"{DOCKER}.live.default_runtime") or facts.get(f"{DOCKER}.daemon_json.default_runtime")
    if value is None:
        return no("runc is the default") if facts.get(f"{DOCKER}.live.runtimes") is not None else UNKNOWN
    return (
        yes(f"default runtime: {value}")
        if str(value).startswith("nvidia")
        else no(f"default runtime: {value}")
    )


@sign("runtime.wanted", "the runtime nvidia is asked for by its name")
def _runtime_wanted(facts: Facts) -> Sign:
    if str(facts.get("container.requests.runtime") or "").startswith("nvidia"):
        return yes("the container asks for --runtime=nvidia")
    if way(facts) == "runtime":
        return yes("containers are launched with --runtime=nvidia")
    if facts.get(f"{DOCKER}.daemon_json.default_runtime") == "nvidia":
        return yes("daemon.json makes it the default")
    if planned(facts, "toolkit.runtime") or planned(facts, "docker.restart"):
        return yes("the plan wants it to be known")
    return no("nothing asks for it") if way(facts) or facts.get("plan") is not None else UNKNOWN


@sign("runtime.program_missing", "the program that daemon.json names for the runtime nvidia is not there")
def _runtime_program(facts: Facts) -> Sign:
    entry = facts.get(f"{DOCKER}.daemon_json.runtime_paths.nvidia")
    if isinstance(entry, Mapping) and entry.get("found") is not None:
        text = f"daemon.json: runtimes.nvidia.path = {entry.get('path')}"
        return no(text) if entry.get("found") else yes(text + ", which is not there")
    path = facts.get(f"{DOCKER}.daemon_json.runtimes.nvidia.path")
    binary = facts.get(f"{TOOLKIT}.binaries.nvidia-container-runtime")
    if not path or not facts.observed:
        return UNKNOWN
    if binary is None:
        return yes(f"daemon.json names {path}, and nvidia-container-runtime is not there")
    if path in (binary, "nvidia-container-runtime"):
        return no(f"{binary} is there")
    return UNKNOWN


@sign("cdi.wanted", "the GPU is to be given by CDI")
def _cdi_wanted(facts: Facts) -> Sign:
    if facts.get("container.requests.cdi_devices"):
        return yes(
            "the container asks for " + ", ".join(map(str, facts.get("container.requests.cdi_devices")))
        )
    if way(facts) == "cdi":
        return yes("containers are launched with --device nvidia.com/gpu=all")
    version = docker_version(facts)
    since = facts.catalog.docker.gpus_uses_cdi_since if facts.catalog else "29.2.0"
    enabled = facts.get("plan.container_runtime.toolkit.cdi.enabled")
    if enabled:
        return yes(str(facts.get("plan.container_runtime.toolkit.cdi.reason") or "the plan has CDI enabled"))
    if version and way(facts) == "gpus" and enabled is None:
        return (
            yes(f"Docker {version} turns --gpus into CDI devices")
            if at_least(version, since)
            else no(f"Docker {version} gives --gpus by the hook")
        )
    return no("CDI is not used here") if enabled is False or way(facts) else UNKNOWN


@sign("cdi.asked", "a CDI device was asked for by its name")
def _cdi_asked(facts: Facts) -> Sign:
    devices = facts.get("container.requests.cdi_devices")
    if devices:
        return yes("--device " + ", ".join(map(str, devices)))
    if way(facts) == "cdi":
        return yes("containers are launched with --device nvidia.com/gpu=all")
    return no("no CDI device is asked for") if devices is not None else UNKNOWN


@sign("cdi.off", "dockerd runs without CDI")
def _cdi_off(facts: Facts) -> Sign:
    if facts.get(f"{DOCKER}.daemon_json.features.cdi") is False:
        return yes("daemon.json: features.cdi is false")
    dirs = facts.get(f"{DOCKER}.live.cdi_spec_dirs")
    if dirs:
        return no("dockerd looks for specifications in " + ", ".join(map(str, dirs)))
    version = docker_version(facts)
    if dirs is not None or (facts.observed and facts.get(f"{DOCKER}.live.reachable")):
        return yes(f"dockerd {version or ''} shows no CDI directories".replace("  ", " "))
    if version and not at_least(version, "25.0"):
        return yes(f"Docker {version} has no CDI")
    return UNKNOWN


@sign("cdi.spec_missing", "there is no CDI specification of NVIDIA's GPUs")
def _cdi_missing(facts: Facts) -> Sign:
    specs = cdi_specs(facts)
    if specs is None:
        return UNKNOWN
    return no(*(str(row.get("path")) for row in specs)) if specs else yes("none in /etc/cdi and /var/run/cdi")


@sign("cdi.spec_there", "there is a CDI specification of NVIDIA's GPUs")
def _cdi_there(facts: Facts) -> Sign:
    state, evidence = ask("cdi.spec_missing", facts)
    return Sign(None if state is None else not state, evidence)


@sign("cdi.spec_fresh", "the CDI specification fits the driver and the kernel's device numbers")
def _cdi_fresh(facts: Facts) -> Sign:
    specs = [row for row in effective_specs(facts) if row.get("stale") is not None]
    if not specs:
        return UNKNOWN
    stale = [str(row.get("path")) for row in specs if row["stale"]]
    return no(*stale) if stale else yes(*(str(row.get("path")) for row in specs))


def _spec_sign(facts: Facts, fault: Any) -> Sign:
    specs = cdi_specs(facts)
    if not specs:
        return UNKNOWN if specs is None else no("there is no specification")
    found = [text for row in effective_specs(facts) for text in fault(row)]
    return yes(*found) if found else no("the specification is as it should be")


@sign("cdi.spec_stale", "the CDI specification no longer fits the driver")
def _cdi_stale(facts: Facts) -> Sign:
    def fault(row: Mapping[str, Any]) -> list[str]:
        if not row.get("stale") or (row.get("wrong_devices") and not _outdated(facts, row)):
            return []
        missing = [f"{path} is not there" for path in (row.get("missing_paths") or [])[:4]]
        return [f"{row.get('path')} was made for driver {row.get('driver_version')}", *missing]

    return _spec_sign(facts, fault)


def _outdated(facts: Facts, row: Mapping[str, Any]) -> bool:
    libraries = facts.get("gpu_stack.driver.userspace.version")
    made_for = row.get("driver_version")
    return bool(row.get("missing_paths")) or bool(made_for and libraries and made_for != libraries)


@sign("cdi.spec_wrong_devices", "the CDI specification gives device files other numbers than the kernel does")
def _cdi_wrong_devices(facts: Facts) -> Sign:
    return _spec_sign(
        facts,
        lambda row: [
            f"{row.get('path')}: {item.get('path')} is {item.get('spec')}, the host's is {item.get('host')}"
            for item in row.get("wrong_devices") or []
        ],
    )


@sign("cdi.spec_without_uvm", "the CDI specification does not give /dev/nvidia-uvm")
def _cdi_without_uvm(facts: Facts) -> Sign:
    def fault(row: Mapping[str, Any]) -> list[str]:
        nodes = row.get("device_nodes")
        if not nodes or "/dev/nvidia-uvm" in nodes:
            return []
        return [f"{row.get('path')} names {len(nodes)} device files, /dev/nvidia-uvm is none of them"]

    return _spec_sign(facts, fault)


@sign("cdi.spec_unreadable", "a CDI specification cannot be read")
def _cdi_unreadable(facts: Facts) -> Sign:
    specs = cdi_specs(facts)
    if specs is None:
        return UNKNOWN
    broken = [
        f"{row.get('path')}: {row.get('error') or 'it cannot be read'}"
        for row in specs
        if not row.get("kind")
    ]
    return yes(*broken) if broken else no("they can be read")


@sign("cdi.spec_twice", "two CDI specifications of one folder name the same device")
def _cdi_twice(facts: Facts) -> Sign:
    specs = cdi_specs(facts)
    if specs is None:
        return UNKNOWN
    seen: dict[tuple[str, str], str] = {}
    found = []
    for row in specs:
        path = str(row.get("path"))
        for device in row.get("devices") or []:
            key = (path.rpartition("/")[0], str(device))
            if key in seen:
                found.append(f"{seen[key]} and {path} both name {device}")
            seen.setdefault(key, path)
    return yes(*found[:4]) if found else no("no device is named twice")


@sign("cdi.device_unknown", "the container asks for a CDI device that the specification does not name")
def _cdi_device_unknown(facts: Facts) -> Sign:
    asked = [str(name) for name in facts.get("container.requests.cdi_devices") or []]
    specs = cdi_specs(facts)
    listed = facts.get("probes.cdi_list.devices")
    if not asked or (specs is None and listed is None):
        return UNKNOWN
    known = {f"{row.get('kind')}={device}" for row in specs or [] for device in row.get("devices") or []}
    known.update(map(str, listed or []))
    if not known:
        return no("there is no specification at all")
    unknown = [name for name in asked if name not in known]
    return (
        yes(*(f"{name} is none of: {', '.join(sorted(known))}" for name in unknown))
        if unknown
        else no(*asked)
    )


@sign("cdi.refresh_failed", "the toolkit's service that writes the CDI specification has failed")
def _cdi_refresh(facts: Facts) -> Sign:
    if facts.get(f"{TOOLKIT}.cdi_refresh.installed") is False:
        return no("there is no such service")
    return truth(facts, f"{TOOLKIT}.cdi_refresh.failed", "nvidia-cdi-refresh.service failed")


@sign("link.toolkit", "the engine can bring a GPU into a container")
def _link_toolkit(facts: Facts) -> Sign:
    wanted = way(facts) or "gpus"
    faults = speaking(facts, "toolkit.installed", state=False)
    if not faults:
        faults += speaking(facts, "toolkit.files_missing", "toolkit.incomplete")
        if wanted == "gpus":
            faults += speaking(facts, "toolkit.newer_than_dockerd", "toolkit.off_dockerd_path")
        if ask("runtime.wanted", facts).state:
            faults += speaking(facts, "runtime.configured", state=False) or speaking(
                facts, "runtime.live", state=False
            )
            faults += speaking(facts, "runtime.program_missing")
    if ask("cdi.wanted", facts).state:
        faults += speaking(
            facts, "cdi.spec_missing", "cdi.spec_stale", "cdi.spec_wrong_devices", "cdi.device_unknown"
        )
        if wanted == "cdi":
            faults += speaking(facts, "cdi.off")
    if faults:
        return no(*dict.fromkeys(faults))
    if ask("toolkit.works", facts).state or (
        container_has_gpu(facts) and not facts.get("container.requests.privileged")
    ):
        return yes("a container got its GPU")
    installed = ask("toolkit.installed", facts)
    if facts.observed and installed.state and ask("docker.running", facts).state:
        known = facts.get(f"{TOOLKIT}.hook_on_dockerd_path")
        if wanted != "gpus" or known:
            return installed
    return UNKNOWN


# -- the image -------------------------------------------------------------------------------------


def _short(reference: Any) -> str:
    """One spelling per image: Docker leaves docker.io/ and library/ out, and adds :latest."""
    text = str(reference or "")
    for prefix in ("docker.io/", "index.docker.io/", "registry-1.docker.io/", "library/"):
        text = text[len(prefix) :] if text.startswith(prefix) else text
    return text if ":" in text.rpartition("/")[2] or "@" in text else text + ":latest"


def _wanted_images(facts: Facts) -> list[str]:
    own = facts.get("container.image")
    if own:
        return [str(own)]
    return [str(row.get("image")) for row in facts.rows("plan.workloads") if row.get("image")]


@sign("image.missing", "the image is not on the node")
def _image_missing(facts: Facts) -> Sign:
    images = facts.get("gpu_stack.framework.images")
    wanted = _wanted_images(facts)
    if facts.get("container.running") or facts.get("container.exit_code") is not None:
        return no("a container was made from it")
    if images is None or not wanted or not facts.observed:
        return UNKNOWN  # what a text lists may be only a part
    have = {_short(row.get("ref")) for row in facts.rows("gpu_stack.framework.images")}
    ids = {str(row.get("id")) for row in facts.rows("gpu_stack.framework.images")}
    absent = [name for name in wanted if _short(name) not in have and name not in ids]
    return (
        yes(*(f"{name} is not there" for name in absent))
        if absent
        else no(*(f"{name} is there" for name in wanted))
    )


@sign("image.there", "the image is on the node")
def _image_there(facts: Facts) -> Sign:
    state, evidence = ask("image.missing", facts)
    if not facts.observed:
        return UNKNOWN
    return Sign(None if state is None else not state, evidence)


@sign("image.other_architecture", "the image is for another architecture than the machine")
def _image_architecture(facts: Facts) -> Sign:
    machine = facts.get("gpu_stack.host.os.arch")
    machine = _MACHINES.get(str(machine), machine)
    own = facts.get("container.architecture")
    wanted = {_short(name) for name in _wanted_images(facts)}
    found = {str(own): "the container's image"} if own else {}
    for row in facts.rows("gpu_stack.framework.images"):
        if row.get("architecture") and _short(row.get("ref")) in wanted:
            found[str(row["architecture"])] = str(row.get("ref"))
    if not machine or not found:
        return UNKNOWN
    other = [
        f"{name} is for {arch}, the machine is {machine}"
        for arch, name in found.items()
        if _MACHINES.get(arch, arch) != machine
    ]
    return yes(*other) if other else no(f"image and machine are {machine}")


@sign("image.alpine", "the image is built on Alpine Linux")
def _image_alpine(facts: Facts) -> Sign:
    image = facts.get("container.image")
    if not image:
        return UNKNOWN
    return yes(str(image)) if "alpine" in str(image) else UNKNOWN


@sign("registry.unreachable", "the registry cannot be reached from the node")
def _registry_unreachable(facts: Facts) -> Sign:
    rows = [row for row in facts.rows("gpu_stack.framework.endpoints") if row.get("name") == "registry"]
    known = [row for row in rows if row.get("reachable") is not None]
    if not known:
        return UNKNOWN
    gone = [f"{row.get('address')}: {row.get('error')}" for row in known if not row["reachable"]]
    return yes(*gone) if gone else no(*(f"{row.get('address')} answers" for row in known))


@sign("disk.full", "the file system of Docker's images has no room")
def _disk_full(facts: Facts) -> Sign:
    conflict = refused(facts, "framework.disk_full")
    if conflict:
        return yes(*conflict)
    root = str(
        facts.get(f"{DOCKER}.live.root_dir")
        or facts.get(f"{DOCKER}.daemon_json.content.data-root")
        or "/var/lib/docker"
    )
    holding = [
        row
        for row in facts.rows("gpu_stack.disk")
        if row.get("path")
        and row.get("free_mib") is not None
        and (root + "/").startswith(str(row["path"]).rstrip("/") + "/")
    ]
    if not holding:
        return UNKNOWN
    disk = max(holding, key=lambda row: len(str(row["path"])))
    text = f"{disk['free_mib']} MiB are free at {root}"
    return yes(text) if disk["free_mib"] < DISK_FLOOR_MIB else no(text)


@sign("link.image", "the image is there, and for this machine")
def _link_image(facts: Facts) -> Sign:
    missing, other = ask("image.missing", facts), ask("image.other_architecture", facts)
    if other.state:
        return other
    if missing.state:
        more = [ask(name, facts) for name in ("registry.unreachable", "disk.full")]
        return no(*missing.evidence, *(text for found in more if found.state for text in found.evidence))
    if missing.state is False:
        return yes(*missing.evidence)
    return yes("the verification ran it") if proven(facts) else UNKNOWN


# -- the request -----------------------------------------------------------------------------------


def _singularity_asked(facts: Facts) -> Sign:
    """Singularity gives a GPU by --nv: its command line tells."""
    if facts.get("container.way") != "singularity":
        return UNKNOWN
    lines = [
        str(row.get("line"))
        for row in facts.rows("commands")
        if re.search(r"\b(?:singularity|apptainer)\s+(?:exec|run|shell)\b", str(row.get("line")))
    ]
    if not lines:
        return UNKNOWN
    given = [line for line in lines if re.search(r"\s--nv(?:ccli)?\b", line)]
    return yes(given[-1]) if given else no(f"no --nv: {lines[-1]}")


@sign("request.asked", "a GPU was asked for")
def _request_asked(facts: Facts) -> Sign:
    requests = facts.get("container.requests")
    if not isinstance(requests, Mapping):
        return _singularity_asked(facts)
    said = []
    if requests.get("gpus"):
        said.append("compose reserves a GPU" if facts.get("container.compose") else "--gpus is given")
    if requests.get("cdi_devices"):
        said.append("--device " + ", ".join(map(str, requests["cdi_devices"])))
    if str(requests.get("runtime") or "").startswith("nvidia"):
        said.append(f"--runtime={requests['runtime']}")
    if said == ["--gpus is given"] and facts.get("container.way") == "podman":
        return UNKNOWN  # podmans before 5 take the option, and do nothing with it
    if said:
        return yes(*said)
    devices = [str(item) for item in requests.get("devices") or [] if "nvidia" in str(item)]
    if devices or requests.get("gpus") is None:
        return UNKNOWN
    default = ask("runtime.default", facts)
    if default.state and requests.get("runtime") is None:
        return yes(*default.evidence)
    return no("neither --gpus nor --runtime=nvidia nor a CDI device is asked for")


@sign("request.none", "no GPU was asked for")
def _request_none(facts: Facts) -> Sign:
    state, evidence = ask("request.asked", facts)
    return Sign(None if state is None else not state, evidence)


@sign("request.by_gpus", "the GPU was asked for by --gpus or by compose")
def _request_by_gpus(facts: Facts) -> Sign:
    if facts.get("container.requests.gpus") is not None:
        return truth(facts, "container.requests.gpus", "--gpus")
    found = way(facts)
    return UNKNOWN if found is None else Sign(found == "gpus", (f"containers are launched by {found}",))


@sign("request.by_variable", "the GPU was asked for by NVIDIA_VISIBLE_DEVICES")
def _request_by_variable(facts: Facts) -> Sign:
    requests = facts.get("container.requests")
    if not isinstance(requests, Mapping):
        return UNKNOWN
    if requests.get("gpus") or requests.get("cdi_devices") or requests.get("privileged"):
        return no("it was asked for in another way")
    value = _nvidia_visible(facts)
    return UNKNOWN if value is None else yes(f"NVIDIA_VISIBLE_DEVICES={value}")


@sign("request.by_hand", "device files were given by hand, without NVIDIA's runtime")
def _request_by_hand(facts: Facts) -> Sign:
    requests = facts.get("container.requests")
    if not isinstance(requests, Mapping):
        return UNKNOWN
    devices = [str(item) for item in requests.get("devices") or [] if "/dev/nvidia" in str(item)]
    runtime = str(requests.get("runtime") or "")
    if requests.get("gpus") or requests.get("cdi_devices") or runtime.startswith("nvidia"):
        return no("NVIDIA's runtime is used")
    if devices:
        return yes(*(f"--device {item}" for item in devices))
    return no("no device file is given") if requests.get("gpus") is False else UNKNOWN


@sign("request.compose", "the container was started by compose")
def _request_compose(facts: Facts) -> Sign:
    return truth(facts, "container.compose", "started by compose")


@sign("request.build", "it happens while an image is built")
def _request_build(facts: Facts) -> Sign:
    return truth(facts, "container.build", "while an image is built")


@sign("request.singularity", "the container is Singularity's (Apptainer's)")
def _request_singularity(facts: Facts) -> Sign:
    found = facts.get("container.way")
    if found is None:
        return UNKNOWN
    return (
        yes("the container is Singularity's")
        if found == "singularity"
        else no(f"the container is run by {found}")
    )


@sign("request.kubernetes", "the container is a pod's")
def _request_kubernetes(facts: Facts) -> Sign:
    if facts.get("container.way") == "kubernetes":
        return yes("the container is a pod's")
    return truth(facts, "platform.kubernetes", "Kubernetes")


def _nvidia_visible(facts: Facts) -> str | None:
    value = (container_environment(facts) or {}).get("NVIDIA_VISIBLE_DEVICES")
    return None if value is None else value.strip().strip("\"'")


@sign("request.devices_hidden", "NVIDIA_VISIBLE_DEVICES is empty, void or none")
def _request_void(facts: Facts) -> Sign:
    value = _nvidia_visible(facts)
    if value is None:
        return UNKNOWN
    text = f"NVIDIA_VISIBLE_DEVICES={value}"
    if value not in ("", "void", "none"):
        return no(text)
    # dockerd adds its own NVIDIA_VISIBLE_DEVICES for --gpus, which goes before the image's and the user's.
    if facts.get("container.requests.gpus") and container_has_gpu(facts) is not False:
        return UNKNOWN
    return yes(text)


@sign("request.variable_unset", "the runtime nvidia is used, but NVIDIA_VISIBLE_DEVICES is not set")
def _request_unset(facts: Facts) -> Sign:
    known, requests = container_environment(facts), facts.get("container.requests")
    if known is None or not isinstance(requests, Mapping):
        return UNKNOWN
    by_runtime = str(requests.get("runtime") or "").startswith("nvidia") or (
        requests.get("runtime") is None and ask("runtime.default", facts).state
    )
    if not by_runtime or requests.get("gpus") or requests.get("cdi_devices"):
        return no("the GPU is not asked for by the variable")
    if "NVIDIA_VISIBLE_DEVICES" in known:
        return no(f"NVIDIA_VISIBLE_DEVICES={known['NVIDIA_VISIBLE_DEVICES']}")
    # A text shows what was typed; the image's own environment may have the variable.
    return yes("NVIDIA_VISIBLE_DEVICES is not in its environment") if facts.observed else UNKNOWN


@sign(
    "request.variable_not_typed", "the runtime nvidia is asked for, and nobody typed NVIDIA_VISIBLE_DEVICES"
)
def _request_not_typed(facts: Facts) -> Sign:
    """What a text can tell of request.variable_unset: the image's own environment is not known there."""
    requests = facts.get("container.requests")
    if not isinstance(requests, Mapping) or not str(requests.get("runtime") or "").startswith("nvidia"):
        return UNKNOWN
    if requests.get("gpus") or requests.get("cdi_devices") or _nvidia_visible(facts) is not None:
        return no("the GPU is asked for")
    return yes(f"--runtime={requests['runtime']} without -e NVIDIA_VISIBLE_DEVICES")


@sign("request.device_absent", "a GPU was asked for by a number or UUID that the machine does not have")
def _request_device_absent(facts: Facts) -> Sign:
    asked = [str(item) for item in facts.get("container.requests.device_ids") or []]
    value = _nvidia_visible(facts)
    if not asked and value and re.fullmatch(r"[\w,.:-]+", value) and value not in ("all", "void", "none"):
        asked = value.split(",")
    count = facts.get("container.requests.count")
    devices = facts.get("gpu_stack.driver.devices")
    if not isinstance(devices, (list, tuple)) or not devices or not facts.observed:
        return UNKNOWN
    names = {str(row.get("index")) for row in devices} | {str(row.get("uuid")) for row in devices}
    absent = [
        item
        for item in asked
        if item not in names and not item.startswith("MIG-") and not re.fullmatch(r"\d+:\d+", item)
    ]
    absent = [
        item for item in absent if not any(name.startswith(item) for name in names if item.startswith("GPU-"))
    ]
    if absent:
        return yes(*(f"{item} is asked for; the driver lists {len(devices)} GPUs" for item in absent))
    if isinstance(count, int) and count > len(devices):
        return yes(f"{count} GPUs are asked for; the driver lists {len(devices)}")
    return no("what was asked for is there") if asked or count else UNKNOWN


def _capabilities(facts: Facts) -> tuple[set[str] | None, str]:
    """What of the driver is brought into the container, and who says so; None: the default."""
    value = (container_environment(facts) or {}).get("NVIDIA_DRIVER_CAPABILITIES")
    if value is not None:
        words = {word.strip() for word in str(value).strip("\"'").split(",") if word.strip()}
        return words or None, f"NVIDIA_DRIVER_CAPABILITIES={value}"
    asked = facts.get("container.requests.capabilities")
    if isinstance(asked, (list, tuple)):
        # dockerd makes NVIDIA_DRIVER_CAPABILITIES of whatever is asked for beside "gpu".
        words = {str(word) for word in asked} - {"gpu", "nvidia"}
        return words or None, "capabilities: " + ", ".join(map(str, asked))
    return None, ""


@sign("request.capabilities_lacking", "NVIDIA_DRIVER_CAPABILITIES leaves CUDA's libraries out")
def _request_capabilities(facts: Facts) -> Sign:
    words, text = _capabilities(facts)
    if not text:
        return UNKNOWN
    return no(text) if words is None or words & {"all", "compute"} else yes(text)


@sign("request.capabilities_complete", "NVIDIA_DRIVER_CAPABILITIES has compute in it")
def _request_complete(facts: Facts) -> Sign:
    state, evidence = ask("request.capabilities_lacking", facts)
    return Sign(None if state is None else not state, evidence)


@sign("request.utility_lacking", "NVIDIA_DRIVER_CAPABILITIES leaves nvidia-smi and NVML out")
def _request_utility(facts: Facts) -> Sign:
    words, text = _capabilities(facts)
    if not text:
        return UNKNOWN
    return no(text) if words is None or words & {"all", "utility"} else yes(text)


@sign("link.request", "a GPU was asked for, and may be seen")
def _link_request(facts: Facts) -> Sign:
    # The last three (signs_framework) are CUDA_VISIBLE_DEVICES: the application's own part of the request.
    faults = speaking(
        facts,
        "request.none",
        "request.devices_hidden",
        "request.variable_unset",
        "request.device_absent",
        "request.capabilities_lacking",
        "env.gpus_hidden",
        "env.index_out_of_range",
        "env.uuid_unknown",
    )
    if faults and container_has_gpu(facts) is not True:
        return no(*faults)
    if proven(facts) or container_has_gpu(facts):
        return yes("a container got its GPU")
    return ask("request.asked", facts)


# -- in the container ------------------------------------------------------------------------------


@sign("place.container", "it happens in a container")
def _place_container(facts: Facts) -> Sign:
    place = facts.get("framework.place")
    if place is not None:
        return yes(f"the framework runs on: {place}") if place == "container" else no(f"it runs on: {place}")
    return yes("a container is spoken of") if facts.get("container") else UNKNOWN


@sign("place.host", "it happens on the host, outside any container")
def _place_host(facts: Facts) -> Sign:
    place = facts.get("framework.place")
    if place is None or (place == "host" and facts.get("container")):
        return UNKNOWN
    return yes("the framework runs on the host") if place == "host" else no(f"it runs on: {place}")


@sign("container.asked_about", "somebody asks about this very container on an observed node")
def _container_asked_about(facts: Facts) -> Sign:
    if not facts.observed:
        return UNKNOWN
    name = facts.get("container.name")
    return yes(f"the container {name}") if name else no("no container is asked about")


@sign("container.lacks_gpu", "the container does not see a GPU")
def _container_lacks_gpu(facts: Facts) -> Sign:
    has = container_has_gpu(facts)
    if has is None:
        return UNKNOWN
    if has:
        return no("the container sees a GPU")
    error = facts.get("container.nvidia_smi.error")
    return yes(str(error) if error else "no GPU is seen in the container")


@sign("container.no_cuda", "the framework in the container has no GPU")
def _container_no_cuda(facts: Facts) -> Sign:
    if facts.get("framework.place") == "host" or not facts.get("container"):
        return UNKNOWN
    listed, available = facts.get("framework.gpus_listed"), facts.get("framework.available")
    if listed is None and available is None:
        return UNKNOWN
    return no("it lists one") if listed or available else yes("the framework in the container lists no GPU")


@sign("container.driver_injected", "the driver was brought into the container")
def _container_injected(facts: Facts) -> Sign:
    """By what only a container with a GPU says: an image may have nvidia-smi and libraries of its own."""
    if facts.get("container.nvidia_smi.ok") is True:
        return yes("nvidia-smi works in the container")
    error = str(facts.get("container.nvidia_smi.error") or "")
    if re.search(r"(?i)insufficient permissions|no devices were found|version mismatch", error):
        return yes(f"nvidia-smi in the container says: {error}")
    return UNKNOWN


@sign("container.libcuda_missing", "libcuda.so.1 is not in the container")
def _container_libcuda_missing(facts: Facts) -> Sign:
    value = facts.get("container.libcuda")
    if value is None:
        return UNKNOWN
    if value is False:
        return yes("libcuda.so.1 is not found in the container")
    return no(
        f"libcuda.so.1 is {value.get('path')}" if isinstance(value, Mapping) else "libcuda.so.1 is there"
    )


def _container_libcuda_kind(facts: Facts, kind: str) -> Sign:
    value = facts.get("container.libcuda")
    if value is False:
        return no("there is no libcuda.so.1")
    if not isinstance(value, Mapping) or value.get("kind") is None:
        return UNKNOWN
    text = f"libcuda.so.1 is {value.get('path')} ({value.get('kind')} {value.get('version') or ''})".replace(
        " )", ")"
    )
    return yes(text) if value["kind"] == kind else no(text)


@sign(
    "container.libcuda_stub", "libcuda.so.1 in the container is the stub that is only there to link against"
)
def _container_stub(facts: Facts) -> Sign:
    return _container_libcuda_kind(facts, "stub")


@sign("container.libcuda_compat", "libcuda.so.1 in the container is the image's compatibility package")
def _container_compat(facts: Facts) -> Sign:
    return _container_libcuda_kind(facts, "compat")


@sign("container.libcuda_other_version", "the container's libcuda is not of the loaded driver's version")
def _container_libcuda_other(facts: Facts) -> Sign:
    value, loaded = facts.get("container.libcuda"), facts.get("gpu_stack.driver.loaded.version")
    loaded = loaded or facts.get("container.proc_driver_version")
    if (
        not isinstance(value, Mapping)
        or value.get("kind") in ("stub", "compat")
        or not value.get("version")
        or not loaded
    ):
        return UNKNOWN
    text = f"in the container {value['version']}, loaded {loaded}"
    return no(text) if str(value["version"]) == str(loaded) else yes(text)


@sign("container.libraries_in_image", "the image brings NVIDIA driver libraries of its own")
def _container_baked(facts: Facts) -> Sign:
    other = ask("container.libcuda_other_version", facts)
    libraries = facts.get("gpu_stack.driver.userspace.version")
    value = facts.get("container.libcuda.version")
    if other.state is not True or not libraries:
        return Sign(False if other.state is False else None, other.evidence)
    if str(value) == str(libraries):
        return no(f"the host's libraries are {libraries}, too")
    return yes(f"libcuda is {value} in the container; the host's is {libraries}")


@sign("container.device_denied", "the container may not open the GPU's device files (device cgroup)")
def _container_denied(facts: Facts) -> Sign:
    access = facts.get("container.device_access")
    if not isinstance(access, Mapping) or not access:
        return UNKNOWN
    denied = [f"{path} is denied in the container" for path, state in access.items() if state == "denied"]
    return yes(*denied) if denied else no(*(f"{path}: {state}" for path, state in sorted(access.items())))


@sign("container.devices_open", "the container can open the GPU's device files")
def _container_devices_open(facts: Facts) -> Sign:
    access = facts.get("container.device_access")
    if not isinstance(access, Mapping) or not access:
        return UNKNOWN
    text = tuple(f"{path}: {state}" for path, state in sorted(access.items()))
    return Sign(all(state == "ok" for state in access.values()), text)


@sign("container.device_mode", "the container's user may not open the GPU's device files (file mode)")
def _container_mode(facts: Facts) -> Sign:
    access = facts.get("container.device_access")
    if not isinstance(access, Mapping) or not access:
        return UNKNOWN
    refused_to = [f"{path} is not permitted" for path, state in access.items() if state == "no_permission"]
    return (
        yes(*refused_to)
        if refused_to
        else no(*(f"{path}: {state}" for path, state in sorted(access.items())))
    )


@sign("container.uvm_missing", "the container has the GPU's device files, but not /dev/nvidia-uvm")
def _container_uvm(facts: Facts) -> Sign:
    nodes = facts.get("container.device_nodes")
    if not isinstance(nodes, (list, tuple)):
        return UNKNOWN
    names = [str(node) for node in nodes]
    if "/dev/nvidia-uvm" in names:
        return no("/dev/nvidia-uvm is in the container")
    if any(_GPU_NODE.match(name) for name in names):
        return yes("in the container: " + ", ".join(sorted(names)))
    return no("the container has no device file of a GPU at all")


@sign("container.no_device_files", "the container has no device file of a GPU")
def _container_no_nodes(facts: Facts) -> Sign:
    nodes = facts.get("container.device_nodes")
    if not isinstance(nodes, (list, tuple)):
        return UNKNOWN
    found = [str(node) for node in nodes if _GPU_NODE.match(str(node))]
    return no(*found) if found else yes("no /dev/nvidia0, /dev/nvidia1, … in the container")


@sign("container.older_than_driver", "the container was started before the driver was changed")
def _container_older(facts: Facts) -> Sign:
    other = ask("container.libcuda_other_version", facts)
    libraries, loaded = (facts.get(f"gpu_stack.driver.{name}.version") for name in ("userspace", "loaded"))
    if other.state is not True or not libraries or libraries != loaded:
        return Sign(False if other.state is False else None, other.evidence)
    return yes(*other.evidence, f"the host's libraries are {libraries}")


@sign("link.libcuda", "the container has the driver's libraries and devices")
def _link_libcuda(facts: Facts) -> Sign:
    faults = speaking(
        facts,
        "container.libcuda_missing",
        "container.libcuda_stub",
        "container.device_denied",
        "container.device_mode",
        "container.uvm_missing",
        "container.no_device_files",
        "container.libcuda_other_version",
    )
    if faults and not (container_has_gpu(facts) and facts.get("framework.available")):
        return no(*faults)
    works = facts.get("framework.place") == "container" and facts.get("framework.available")
    if proven(facts) or works:
        return yes("the framework in the container lists its GPUs")
    nodes = ask("container.no_device_files", facts)
    library = ask("container.libcuda_missing", facts)
    if nodes.state is False and library.state is False:
        return yes(*nodes.evidence, *library.evidence)
    return UNKNOWN
