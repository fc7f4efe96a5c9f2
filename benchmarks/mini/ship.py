"""Put the model of a training run into the package, its gene table in float16.

python -m benchmarks.mini.ship RUN
"""

import argparse
from pathlib import Path

from cellfm.model import load_model
from cellfm.model._checkpoint import CONFIG_FILE, WEIGHTS_FILE, write_model
from cellfm.settings import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    model, shipped = load_model(run), model_folder("mini")
    made = run / "shipped"
    write_model(made, model.config, model.vocab, model.weights, name="mini", half=True, overwrite=True)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        (shipped / name).write_bytes((made / name).read_bytes())


if __name__ == "__main__":
    main()
