"""What all tests share."""

import torch

# The references are small: a second thread costs them more in waiting than it saves, above all on a busy machine.
torch.set_num_threads(1)
