"""Training of LSA-Net: the only place that uses torch. ``python -m train --help`` tells what there is."""
