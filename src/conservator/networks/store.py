"""Networks in memory once: whoever runs the same weights shares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from conservator.forking import Lock
from conservator.networks import make_network


class NetworkStore:
    """Trained networks, each loaded once per device however many tools and perceptions run it, from any thread.

    What was loaded stays as long as the store. The networks are for reading only: nobody may train one. Pickled, a
    store arrives empty, so that a task for another process stays small.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._loaded: dict[tuple[str, str, str], nn.Module] = {}

    def load(self, network: str, sha256: str, read: Callable[[], Mapping[str, Tensor]], device: str) -> nn.Module:
        """The network of a name in NETWORKS with the weights of a hash, float32, ready to run on a torch device.

        ``read`` gives its tensors and is called where the store does not hold them yet; without a hash ("") nothing is
        shared. Raises NameNotFoundError for an unknown network, and what ``read`` raises.
        """
        if not sha256:
            return _network(network, read(), device)
        key = network, sha256, device
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = _network(network, read(), device)
            return self._loaded[key]

    def __reduce__(self) -> tuple[type[NetworkStore], tuple[()]]:
        return NetworkStore, ()


def _network(name: str, tensors: Mapping[str, Tensor], device: str) -> nn.Module:
    network = make_network(name)
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    network.eval().requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
