"""A GPU that is not there: tensors that say they are on one, and compute on the CPU.

torch's own FakeTensorMode knows neither whose generator draws nor, in a build of torch without CUDA, a backward pass. This
knows both, and numbers too. It does not know streams, graphs, compilers, memory or speed.
"""

import contextlib

import torch
from torch import Tensor
from torch._C import _functorch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MOVES = {"to", "cpu", "cuda", "copy_"}
READS = {"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "nonzero", "equal", "is_nonzero"}
ABOUT = {"device", "_parse_to", "_has_compatible_shallow_copy_type"}  # they compute nothing
JOINS = {"cat", "stack", "concat"}  # these take not even a single number from the CPU


class PretendedCuda(TorchFunctionMode):
    """Within, device "cuda" is there. What a real one refuses is refused: a mix of devices, a generator of the other device.

    Attributes:
        waits: names of the functions that would have made the host wait for the GPU, in turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.here = WeakTensorKeyDictionary()  # the tensors on the GPU

    def device_of(self, tensor: Tensor) -> torch.device:
        """Where the tensor says it is; torch.func wraps tensors in others, and what is inside counts."""
        layers = _layers(tensor)
        return GPU if any(layer in self.here for layer in layers) else CPU

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.__name__
        if name in ABOUT:
            return func(*args, **kwargs)
        if func == Tensor.device.__get__:
            return self.device_of(args[0])
        if func == Tensor.is_cuda.__get__:
            return self.device_of(args[0]) == GPU
        if func == Tensor.data.__set__:
            func(*args)
            return self._put(args[0], self.device_of(args[1]))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs = inputs[:1] if name == "__deepcopy__" else inputs  # beside a dict of all that was copied before
        found = self._moved_to(name, args, kwargs) if name in MOVES else self._common(name, inputs, kwargs)
        self._note_wait(name, inputs, found, kwargs)
        kwargs.pop("pin_memory", None)
        args, kwargs = tree_map(lambda leaf: CPU if _named(leaf) == GPU else leaf, (args, kwargs))
        if name == "cuda":
            return self._put(args[0].clone(), GPU)
        result = func(*args, **kwargs)
        if result is not None and name in MOVES - {"copy_"} and result is args[0] and self.device_of(result) != found:
            result = result.clone()  # another device is another tensor
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._put(leaf, found)
        return result

    def _put(self, tensor: Tensor, device: torch.device) -> Tensor:
        for layer in _layers(tensor):
            if device == GPU:
                self.here[layer] = True
            else:
                self.here.pop(layer, None)
        return tensor

    def _moved_to(self, name, args, kwargs) -> torch.device:
        if name in ("cpu", "cuda"):
            return CPU if name == "cpu" else GPU
        if name == "to":
            for leaf in (*args[1:], *kwargs.values()):
                if isinstance(leaf, Tensor):
                    return self.device_of(leaf)
                if _named(leaf):
                    return _named(leaf)
        return self.device_of(args[0])

    def _common(self, name, inputs, kwargs) -> torch.device:
        """The device that the function computes on: the named one, or the inputs'."""
        devices = [self.device_of(t) for t in inputs]
        indexing = name in ("__getitem__", "__setitem__")  # takes indices from the CPU, and waits for them
        firm = devices[:1] if indexing else [d for d, t in zip(devices, inputs, strict=True) if t.ndim or name in JOINS]
        if len({*firm}) > 1 or (indexing and devices[0] == CPU and GPU in devices):
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found cuda:0 and cpu")
        found = _named(kwargs.get("device")) or (firm or [GPU if GPU in devices else CPU])[0]
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != found.type:
            raise RuntimeError(f"{name}: Expected a '{found.type}' device type for generator")
        return found

    def _note_wait(self, name, inputs, found, kwargs) -> None:
        devices = {self.device_of(t) for t in inputs}
        if name == "numpy" and GPU in devices:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        crossed = name in MOVES and devices and devices != {found} and not kwargs.get("non_blocking")
        masked = name in ("__getitem__", "masked_select") and any(t.dtype == torch.bool for t in inputs[1:])
        fetched = name == "__getitem__" and len(devices) > 1
        if crossed or (GPU in devices and (name in READS or masked or fetched)):
            self.waits.append(name)


def _layers(tensor: Tensor) -> list[Tensor]:
    layers = [tensor]
    while _functorch.is_functorch_wrapped_tensor(layers[-1]):
        layers.append(_functorch.get_unwrapped(layers[-1]))
    return layers


def _named(leaf) -> torch.device | None:
    """The device that an argument names, if it names one."""
    if isinstance(leaf, str):
        leaf = {"cuda": GPU, "cuda:0": GPU, "cpu": CPU}.get(leaf)
    return {"cuda": GPU}.get(leaf.type, CPU) if isinstance(leaf, torch.device) else None  # meta is not the GPU either


class Event:
    """torch.cuda.Event, of work that is done at once."""

    def record(self) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """It is done."""


@contextlib.contextmanager
def pretended_cuda(monkeypatch):
    """A PretendedCuda, with what else torch says of a GPU. Its random numbers are the CPU's; a second one is not to be touched."""
    autocast = torch.autocast
    with monkeypatch.context() as patch, PretendedCuda() as machine:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 2)  # torch warns where all of them are started
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretended GPU")
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        patch.setattr(torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state))
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch, "autocast", lambda _device, dtype: autocast("cpu", dtype))
        yield machine
