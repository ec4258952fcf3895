"""What nodebench uses of Ray, within this process: nodes are threads, and are lost when a test says so.

It answers as Ray documents it: work is placed where there are CPUs for it and its label selector permits, values and
results are copied, and who waits for a lost node or an error within work gets Ray's own exception.
"""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ray
from ray import cloudpickle

NODE_DIED = (
    "Task failed because the node it was running on is dead or unavailable. Node IP: 127.0.0.1, node ID: {}. This can "
    "happen if the node was preempted, had a hardware failure, or its raylet crashed unexpectedly."
)


def copied(value):
    """A value as another process gets it."""
    return cloudpickle.loads(cloudpickle.dumps(value))


class FakeRef:
    """A promise of a value."""

    def __init__(self):
        self.promised = Future()

    def future(self):
        return self.promised


@dataclass(eq=False)
class FakeNode:
    """A machine with CPUs, some of which are free."""

    name: str
    cpus: int
    free: int = field(init=False)
    lost: threading.Event = field(default_factory=threading.Event, init=False)
    tasks: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self):
        self.free = self.cpus

    @property
    def node_id(self):
        return self.name.encode().hex().ljust(56, "0")


@dataclass(eq=False)
class FakeTask:
    """Work that waits for a node or is at one."""

    function: Any
    arguments: tuple[Any, ...]
    cpus: int
    selector: str
    ref: FakeRef = field(default_factory=FakeRef)

    def may_be_on(self, node):
        """Whether a node has what the work takes; selectors are those that leave nodes out."""
        left_out = self.selector.removeprefix("!in(").removesuffix(")").split(",")
        return not node.lost.is_set() and node.free >= self.cpus and node.node_id not in left_out


class FakeActor:
    """An object to which messages go one at a time, and which answers at once."""

    def __init__(self, thing):
        self.thing, self.turn = thing, threading.Lock()

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: self.answer(name, arguments))

    def answer(self, name, arguments):
        ref = FakeRef()
        with self.turn:
            ref.promised.set_result(copied(getattr(self.thing, name)(*copied(arguments))))
        return ref


class FakeRay:
    """Stands in for the module `ray`."""

    exceptions = ray.exceptions
    __version__ = ray.__version__
    address = "fake:1"

    def __init__(self):
        self.changing = threading.RLock()
        self.members = {}
        self.waiting = []
        self.here = threading.local()

    def add(self, name, cpus=1):
        """A node joins."""
        with self.changing:
            self.members[name] = FakeNode(name, cpus)
            self._place()

    def lose(self, name):
        """A node is gone, and all that was done there."""
        with self.changing:
            node = self.members[name]
            node.lost.set()
            for task in node.tasks:
                task.ref.promised.set_exception(ray.exceptions.NodeDiedError(NODE_DIED.format(node.node_id)))
            node.tasks.clear()

    def node_here(self):
        """The node on which the calling thread is at work."""
        return self.here.node

    def nodes(self):
        with self.changing:
            return [
                {
                    "NodeID": node.node_id,
                    "Alive": not node.lost.is_set(),
                    "Resources": {"CPU": float(node.cpus)},
                    "NodeName": node.name,
                    "NodeManagerHostname": "host",
                    "NodeManagerAddress": "127.0.0.1",
                }
                for node in self.members.values()
            ]

    def get_runtime_context(self):
        node = getattr(self.here, "node", None)
        return SimpleNamespace(get_node_id=lambda: node.node_id if node else "d" * 56)

    def put(self, value):
        ref = FakeRef()
        ref.promised.set_result(copied(value))
        return ref

    def get(self, ref, timeout=None):
        return ref.promised.result(timeout)

    def wait(self, refs, timeout=None):
        assert timeout == 0
        ready = [ref for ref in refs if ref.promised.done()]
        return ready, [ref for ref in refs if ref not in ready]

    def remote(self, thing):
        if isinstance(thing, type):
            return SimpleNamespace(
                options=lambda **_: SimpleNamespace(remote=lambda *arguments: FakeActor(thing(*arguments)))
            )

        def options(num_cpus, label_selector=None, **_):
            [selector] = (label_selector or {"ray.io/node-id": ""}).values()
            return SimpleNamespace(remote=lambda *arguments: self._submit(thing, arguments, num_cpus, selector))

        return SimpleNamespace(options=options)

    def kill(self, actor):
        assert isinstance(actor, FakeActor)

    def cancel(self, ref, *, force):
        assert force
        with self.changing:
            for node in self.members.values():
                for task in [task for task in node.tasks if task.ref is ref]:
                    self._leave(task, node)
            self.waiting = [task for task in self.waiting if task.ref is not ref]
            if not ref.promised.done():
                ref.promised.set_exception(ray.exceptions.TaskCancelledError())
            self._place()

    def _submit(self, function, arguments, cpus, selector):
        values = (self.get(value) if isinstance(value, FakeRef) else value for value in arguments)
        copies = tuple(value if isinstance(value, FakeActor) else copied(value) for value in values)
        task = FakeTask(function, copies, cpus, selector)
        with self.changing:
            self.waiting.append(task)
            self._place()
        return task.ref

    def _place(self):
        """Begin what waits where there is room for it, on the nodes with the most room first."""
        for task in list(self.waiting):
            able = [node for node in self.members.values() if task.may_be_on(node)]
            if able:
                node = max(able, key=lambda node: node.free)
                self.waiting.remove(task)
                node.tasks.append(task)
                node.free -= task.cpus
                threading.Thread(target=self._do, args=(task, node), daemon=True).start()

    def _do(self, task, node):
        self.here.node = node
        value = error = None
        try:
            value = copied(task.function(*task.arguments))
        except Exception as raised:  # noqa: BLE001  whatever it is, it is told to the one who waits
            error = ray.exceptions.RayTaskError("task", str(raised), raised, ip="127.0.0.1").as_instanceof_cause()
        with self.changing:
            if task not in node.tasks:
                return  # lost with the node, or called back
            self._leave(task, node)
            if error is None:
                task.ref.promised.set_result(value)
            else:
                task.ref.promised.set_exception(error)
            self._place()

    @staticmethod
    def _leave(task, node):
        node.tasks.remove(task)
        node.free += task.cpus
