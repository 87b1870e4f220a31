"""The systems that can be trained, saved and loaded, told apart by `kind` in their configuration.

A system's configuration has

* `vocab_size`, the tokens of its tokenizer;
* `check(processor)`, which raises a `ValueError` if inputs and model do not fit together;
* `with_vocabulary(size)`, the same for so many words, if it learns them from the data;
* `build()`, the module with fresh weights: its `config` is the configuration, `forward(batch)`
  gives what the objectives need, and `decoder`, if it has one, predicts words.

One from outside the package has the kind `package.module:Class`.
"""

from typing import Annotated

from valor.config import ByKind, Foreign
from valor.models.bridge import BridgeConfig
from valor.models.valor import ValorConfig

SystemConfig = Annotated[ValorConfig | BridgeConfig | Foreign, ByKind("valor")]
