"""The old name of run.py, for training/tools.py until it imports from there."""

from conservator.training.run import (
    Curve,
    draw_curve,
    load_checkpoint,
    read_curve,
    refuse_more,
    save_checkpoint,
    write_curve,
)

__all__ = ["Curve", "draw_curve", "load_checkpoint", "read_curve", "refuse_more", "save_checkpoint", "write_curve"]
