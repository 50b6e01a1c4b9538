"""`python -m openseg_jax.data.builders NAME --root DIR [--data-dir DIR]`."""

import sys

from openseg_jax.data.builders.build import main

sys.exit(main())
