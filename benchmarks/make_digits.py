"""The digits CNN of the demo, trained from a seed: `python make_digits.py FOLDER SEED` writes
digits-SEED.keras. The split of the data is the demo's, the same for every seed. With `--student` it
is student-SEED.keras: half as wide, untrained."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.demo import train_digits

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
if "--student" in sys.argv[3:]:
    import keras

    keras.utils.set_random_seed(seed)
    name, model = "student", train_digits.architecture(width=0.5)
else:
    name, model = "digits", train_digits.train(train_digits.load(), seed)
part = folder / f"part-{name}-{seed}.keras"
model.save(part)
part.rename(folder / f"{name}-{seed}.keras")
