# Apache-2.0 (see LICENSE)
"""`gpuready watch`: a live table of a fleet's GPUs, over one SSH connection per node. Controller only."""

from __future__ import annotations

import argparse
import ast
import base64
import json
import os
import resource
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .inputs import Trouble

OK = 0
SOME_NOT_REACHED = 2
PACKAGE = "gpuready_watch"
HERE = Path(__file__).resolve().parent
#: A node that went away is tried again after so long.
RETRY_SECONDS = 5.0
#: What is older than so long, and than so many intervals, is no news: the node or the way there hangs.
SILENT_SECONDS = 15.0
SILENT_INTERVALS = 5
#: So long `--once` waits for the slowest node.
ONCE_SECONDS = 30.0

# Runs on the node with -c: takes the program from its input, so that nothing is written there.
LOADER = """
import base64,importlib.abc,importlib.util,json,sys,zlib
sent=json.loads(zlib.decompress(base64.b64decode(sys.stdin.buffer.readline())))
class Sent(importlib.abc.MetaPathFinder,importlib.abc.InspectLoader):
    def find_spec(self,name,path=None,target=None):
        return importlib.util.spec_from_loader(name,self) if name in sent["files"] else None
    def get_source(self,name): return sent["files"][name]
    def is_package(self,name): return any(other.startswith(name+".") for other in sent["files"])
sys.meta_path.insert(0,Sent())
importlib.import_module("PACKAGE.usage_stream").run(sent["options"])
""".replace("PACKAGE", PACKAGE).strip()


def add(verbs: Any) -> None:
    """The subcommand's arguments."""
    watching = verbs.add_parser(
        "watch",
        help="a live table of a fleet's GPUs and who computes on them: nvidia-smi for many nodes",
        description="Shows use, memory, temperature, power and processes of every GPU of an inventory. Reads "
        "only. Needs ansible-core (for the inventory), SSH keys, and sudo without a password to see "
        "everybody's processes. Ends with Ctrl-C.",
        epilog="exit codes: 0 all nodes were heard, 1 bad question, 2 some were not reached (--once)",
    )
    watching.add_argument(
        "-i",
        "--inventory",
        action="append",
        metavar="INVENTORY",
        help="as ansible-playbook takes it; repeat it",
    )
    watching.add_argument(
        "--limit", default="gpu_nodes", metavar="PATTERN", help="which hosts (default: gpu_nodes)"
    )
    watching.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="default: 2")
    watching.add_argument("--once", action="store_true", help="print one table and end")
    watching.add_argument("--json", action="store_true", help="with --once: what was seen, as JSON")
    watching.set_defaults(run=run)


# -- what the nodes run ------------------------------------------------------------------------------------


def files(names: Sequence[str] = ("usage_stream",)) -> dict[str, str]:
    """The program and what it imports of this folder, by module name."""
    found: dict[str, str] = {PACKAGE: ""}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if f"{PACKAGE}.{name}" in found:
            continue
        base = HERE.joinpath(*name.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        text = path.read_text(encoding="utf-8")
        found[f"{PACKAGE}.{name}"] = text
        package = name.split(".") if base.is_dir() else name.split(".")[:-1]
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            start = [
                *package[: len(package) - node.level + 1],
                *(node.module.split(".") if node.module else []),
            ]
            for alias in node.names:
                for candidate in (start, [*start, alias.name]):
                    place = HERE.joinpath(*candidate)
                    if candidate and (place.with_suffix(".py").is_file() or place.is_dir()):
                        waiting.append(".".join(candidate))
    return found


def payload(interval: float, rounds: int | None) -> bytes:
    """One line that the loader on the node understands."""
    from . import nvml_bindings

    try:
        bindings: str | None = nvml_bindings.pack()
    except nvml_bindings.NoBindings:
        bindings = None
    options = {"interval": interval, "rounds": rounds, "bindings": bindings}
    text = json.dumps({"files": files(), "options": options})
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 6)) + b"\n"


def remote_command(python: str) -> str:
    """What the node's shell is asked to run: as root where that needs no password."""
    program = f"{shlex.quote(python)} -c {shlex.quote(LOADER)}"
    return (
        'if [ "$(id -u)" = 0 ]; then exec ' + program + "; "
        "elif sudo -n true 2>/dev/null; then exec sudo -n " + program + "; "
        "else exec " + program + "; fi"
    )


# -- how the nodes are reached -----------------------------------------------------------------------------


def ssh_command(options: Mapping[str, Any], host: str, command: str) -> list[str]:
    """The ssh that Ansible would use, with its own connection, and never asking for a password."""
    words = [str(options.get("ssh_executable") or "ssh")]
    words += shlex.split(str(options.get("ssh_args") or ""))
    # What comes first counts in ssh; a shared connection would outlive this program.
    own = ["-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none"]
    words = [words[0], *own, *words[1:]]
    if options.get("host_key_checking") is False:
        words += ["-o", "StrictHostKeyChecking=no"]
    if options.get("port"):
        words += ["-o", f"Port={options['port']}"]
    if options.get("private_key_file"):
        words += ["-o", f'IdentityFile="{os.path.expanduser(str(options["private_key_file"]))}"']
    if options.get("remote_user"):
        words += ["-o", f"User={options['remote_user']}"]
    words += ["-o", f"ConnectTimeout={options.get('timeout') or 10}"]
    for name in ("ssh_common_args", "ssh_extra_args"):
        words += shlex.split(str(options.get(name) or ""))
    return [*words, str(options.get("host") or host), command]


class Way:
    """How one node is reached: a command, or why it cannot be."""

    def __init__(self, command: list[str] | None, trouble: str | None, simulated: bool) -> None:
        self.command = command
        self.trouble = trouble
        self.simulated = simulated


def ways(inventories: Sequence[str] | None, pattern: str) -> dict[str, Way]:
    """Every node of the pattern, by the inventory."""
    try:
        from ansible import constants
        from ansible.cli import CLI
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader
        from ansible.plugins.loader import connection_loader, init_plugin_loader
        from ansible.template import Templar
        from ansible.utils.collection_loader import AnsibleCollectionConfig
        from ansible.vars.manager import VariableManager
    except ImportError as error:
        raise Trouble(f"watch needs ansible-core beside gpuready: {error}") from error
    from ansible.errors import AnsibleError

    try:
        if AnsibleCollectionConfig.collection_finder is None:
            init_plugin_loader()
        loader = DataLoader()
        sources = list(inventories or constants.DEFAULT_HOST_LIST)
        for source in inventories or []:
            if "," not in source and not os.path.exists(source):
                raise Trouble(f"-i {source}: there is no such inventory")
        # Where the site's configuration says how; nobody is asked for a password.
        vaults = list(constants.DEFAULT_VAULT_IDENTITY_LIST or [])
        if vaults or constants.DEFAULT_VAULT_PASSWORD_FILE:
            loader.set_vault_secrets(CLI.setup_vault_secrets(loader, vaults, auto_prompt=False))
        inventory = InventoryManager(loader=loader, sources=sources)
        variables = VariableManager(loader=loader, inventory=inventory)
        hosts = inventory.get_hosts(pattern)
        connection_loader.get("ssh", class_only=True)
    except AnsibleError as error:
        raise Trouble(" ".join(str(error).split())) from error
    if not hosts:
        raise Trouble(f"--limit {pattern}: no host of {', '.join(sources)} matches")
    found = {}
    for host in hosts:
        try:
            own = variables.get_vars(host=host)
        except AnsibleError as error:
            found[host.name] = Way(None, " ".join(str(error).split()), False)
            continue
        templar = Templar(loader=loader, variables=own)

        def value(name: str, fallback: Any = None, own: Any = own, templar: Any = templar) -> Any:
            return templar.template(own[name]) if name in own else fallback

        try:
            simulated = value("gpuready_simulated", False) in (True, "true", "yes", "True")
            python = str(value("ansible_python_interpreter", "/usr/bin/python3"))
            if python.startswith("auto"):
                python = "/usr/bin/python3"
            kind = str(value("ansible_connection", "ssh")).rpartition(".")[2]
            if kind == "local":
                found[host.name] = Way(["sh", "-c", remote_command(python)], None, simulated)
                continue
            if kind not in ("ssh", "smart"):
                raise AnsibleError(
                    f"watch speaks SSH, not {kind}; playbooks/watch.yml speaks whatever Ansible does"
                )
            names = constants.config.get_plugin_vars("connection", "ssh")
            given = {name: value(name) for name in names if name in own}
            options = constants.config.get_plugin_options("connection", "ssh", variables=given)
            if options.get("password"):
                raise AnsibleError(
                    "its SSH takes a password, and watch takes keys only; see playbooks/watch.yml"
                )
            command = ssh_command(options, str(value("ansible_host", host.name)), remote_command(python))
            found[host.name] = Way(command, None, simulated)
        except AnsibleError as error:
            found[host.name] = Way(None, " ".join(str(error).split()), False)
    return found


# -- listening ---------------------------------------------------------------------------------------------


class Listener:
    """One node's stream. Its last words stay until there are newer ones."""

    def __init__(self, name: str, way: Way, data: bytes) -> None:
        self.name, self.way, self.data = name, way, data
        self.look: dict[str, Any] = {} if way.command else {"unreachable": way.trouble}
        self.process: subprocess.Popen[bytes] | None = None
        self.heard = way.command is None
        self.at = 0.0
        self._rest = b""
        self._buffer = b""
        self._again = 0.0

    def start(self) -> None:
        if self.way.command is None:
            return
        try:
            self.process = subprocess.Popen(
                self.way.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            assert self.process.stdin is not None
            # A pipe takes 64 kB at once: a node that does not answer must not stop the others.
            os.set_blocking(self.process.stdin.fileno(), False)
        except OSError as error:
            self._gone(str(error))
        self._rest = self.data
        self._buffer = b""

    def send(self) -> None:
        """More of the program, as far as the pipe takes it."""
        if not self._rest or self.process is None or self.process.stdin is None:
            return
        try:
            self._rest = self._rest[os.write(self.process.stdin.fileno(), self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._rest = b""

    def read(self) -> None:
        """What came; at the end, why."""
        assert self.process is not None and self.process.stdout is not None
        part = os.read(self.process.stdout.fileno(), 1 << 16)
        if not part:
            said = b""
            if self.process.stderr is not None:
                said = self.process.stderr.read()
            lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
            code = self.process.wait()
            # One that was asked for a number of looks only, or that has said itself what is wrong.
            keep = bool(self.look) and (code == 0 or bool(self.look.get("error")))
            self._gone(lines[-1] if lines else f"the connection ended ({code})", keep)
            return
        *whole, self._buffer = (self._buffer + part).split(b"\n")
        for line in whole:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # a banner of the node's shell
            if isinstance(found, dict) and "gpus" in found:
                self.look, self.heard, self.at = found, True, time.monotonic()

    def _gone(self, why: str, keep: bool = False) -> None:
        self.close()
        self.heard = True
        if not keep:
            self.look = {"unreachable": why}
        self._again = time.monotonic() + RETRY_SECONDS

    def due(self) -> bool:
        """Whether to try anew."""
        return self.process is None and self.way.command is not None and time.monotonic() >= self._again

    def close(self) -> None:
        """End the stream; the node's end sees its input closed."""
        process, self.process = self.process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Fleet:
    """All listeners."""

    def __init__(self, reached: Mapping[str, Way], interval: float, rounds: int | None = None) -> None:
        data = payload(interval, rounds)
        self.listeners = [Listener(name, way, data) for name, way in reached.items()]
        self.simulated = [name for name, way in reached.items() if way.simulated]
        self._silent = max(SILENT_SECONDS, SILENT_INTERVALS * interval)
        self._selector = selectors.DefaultSelector()
        self._rounds = rounds
        # Three pipes for each node; the usual limit ends at about 300 nodes.
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))

    def open(self) -> None:
        for listener in self.listeners:
            self._start(listener)

    def _start(self, listener: Listener) -> None:
        listener.start()
        if listener.process is not None and listener.process.stdout is not None:
            self._selector.register(listener.process.stdout, selectors.EVENT_READ, listener)

    def listen(self, seconds: float, enough: Any = None) -> None:
        """Take what comes for so long, or until it is enough."""
        deadline = time.monotonic() + seconds
        while True:
            for listener in self.listeners:
                listener_sends = listener.process is not None
                if listener_sends:
                    listener.send()
                elif self._rounds is None and listener.due():
                    self._start(listener)
            left = deadline - time.monotonic()
            if left <= 0 or (enough is not None and enough()):
                return
            if not self._selector.get_map():
                time.sleep(min(left, 0.1))
                continue
            for key, _events in self._selector.select(min(left, 0.1)):
                listener = key.data
                stream = key.fileobj
                before = listener.process
                # Out before it is closed: a number may be used again at once.
                self._selector.unregister(stream)
                listener.read()
                if listener.process is before and before is not None:
                    self._selector.register(stream, selectors.EVENT_READ, listener)

    def looks(self) -> dict[str, dict[str, Any]]:
        """What each node said last; one that has been silent for long is not shown as if it went on."""
        now = time.monotonic()
        found = {}
        for listener in self.listeners:
            look, age = listener.look, now - listener.at
            if listener.process is not None and listener.at and age > self._silent:
                look = {"unreachable": f"nothing was heard for {age:.0f} s"}
            found[listener.name] = look
        return found

    def close(self) -> None:
        for listener in self.listeners:  # all at once, and then wait for each
            if listener.process is not None:
                listener.process.terminate()
        for listener in self.listeners:
            listener.close()
        self._selector.close()


# -- showing -----------------------------------------------------------------------------------------------


def _speaks_unicode() -> bool:
    try:
        "█░└°…".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return os.environ.get("TERM") != "linux"


def run(options: argparse.Namespace, catalog: Any) -> int:
    """Show the table until somebody ends it."""
    from .usage_table import table

    if not 0.5 <= options.interval <= 3600:
        raise Trouble("--interval %g: give a number of seconds from 0.5 to 3600" % options.interval)
    if options.json and not options.once:
        raise Trouble("--json goes with --once")
    reached = ways(options.inventory, options.limit)
    terminal = sys.stdout.isatty()
    colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    unicode = _speaks_unicode()
    # Two looks: what a process takes of the CPU shows from the second on.
    fleet = Fleet(reached, 1.0 if options.once else options.interval, 2 if options.once else None)

    def lines(high: int | None = None) -> list[str]:
        columns = shutil.get_terminal_size().columns if terminal else None
        return table(
            fleet.looks(),
            colour=colour,
            unicode=unicode,
            columns=columns,
            lines=high,
            simulated=fleet.simulated,
        )

    def stop(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        fleet.open()
        if options.once:
            fleet.listen(ONCE_SECONDS, lambda: all(one.process is None for one in fleet.listeners))
            for listener in fleet.listeners:
                if not listener.heard:
                    listener.look = {"unreachable": "no answer within %g s" % ONCE_SECONDS}
            if options.json:
                json.dump(fleet.looks(), sys.stdout, indent=2)
                print()
            else:
                print("\n".join(lines()))
            dark = [
                name for name, look in fleet.looks().items() if look.get("unreachable") or look.get("error")
            ]
            return SOME_NOT_REACHED if dark else OK
        _live(fleet, lines, options, terminal)
        return OK
    except KeyboardInterrupt:
        return OK
    finally:
        signal.signal(signal.SIGTERM, before)
        fleet.close()
        if terminal and not options.once:
            sys.stdout.write("\x1b[?25h\x1b[?1049l")
            sys.stdout.flush()


def _live(fleet: Fleet, lines: Any, options: argparse.Namespace, terminal: bool) -> None:
    if terminal:
        # The other screen, without a cursor; what stood in the terminal comes back in the end.
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
    first = True
    while True:
        if first:
            fleet.listen(min(options.interval, 3.0), lambda: all(one.heard for one in fleet.listeners))
            first = False
        title = f"gpuready watch   {time.strftime('%H:%M:%S')}   every {options.interval:g} s   Ctrl-C ends"
        if terminal:
            high = shutil.get_terminal_size().lines
            shown = [title, "", *lines(high - 3)]
            # Over the old picture and not after wiping it: no flicker.
            sys.stdout.write("\x1b[H" + "".join(line + "\x1b[K\n" for line in shown) + "\x1b[J")
        else:
            sys.stdout.write("\n".join([title, *lines()]) + "\n\n")
        sys.stdout.flush()
        fleet.listen(options.interval)
