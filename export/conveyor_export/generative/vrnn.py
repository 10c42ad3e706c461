"""The variational recurrent network of Chung and others (2015): a prior, and all else, that knows the past."""

from torch import Tensor, nn

from conveyor_export.cells.lstm import LSTMCell
from conveyor_export.generative.gaussian import Gaussian, GaussianLayer
from conveyor_export.generative.sequence_model import SequenceModel, Sizes, join, two_layers
from conveyor_export.protocol import Tensors


class VRNN(SequenceModel):
    """Every network of a step sees `h` as the step before left it, and never the cell state `c`.

    With F = H features: phi_x and phi_z of what was seen and drawn, phi_prior, phi_enc and phi_dec of what is expected.
    The LSTM begins as all of this project's do; in the paper's own code, its recurrent matrices are orthogonal and it
    has no forget bias.
    """

    def __init__(self, sizes: Sizes) -> None:
        X, Z, H = sizes.input_size, sizes.latent_size, sizes.hidden_size
        super().__init__(sizes, {"h": H, "c": H}, {"h": H, "c": H}, num_features=H)
        self.phi_x, self.phi_z = two_layers(X, H), two_layers(Z, H)
        self.phi_prior = nn.Sequential(two_layers(H, H), GaussianLayer(H, Z))
        self.phi_enc = nn.Sequential(two_layers(2 * H, H), GaussianLayer(H, Z))
        self.phi_dec = two_layers(2 * H, H)
        self.f = LSTMCell(2 * H, H)

    def score(self, x_BX: Tensor, epsilon_BZ: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
        h, phi_x = states["h"], self.phi_x(x_BX)
        prior: Gaussian = self.phi_prior(h)
        posterior: Gaussian = self.phi_enc(join(phi_x, h))
        phi_z = self.phi_z(posterior.sample(epsilon_BZ))
        log_likelihood = self.likelihood.log_likelihood(self.phi_dec(join(phi_z, h)), x_BX)
        _, states = self.f(join(phi_x, phi_z), states)
        return {"log_likelihood": log_likelihood, "kl": posterior.divergence(prior)}, states

    def generate(self, epsilon_BZ: Tensor, noise_BX: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
        h = states["h"]
        prior: Gaussian = self.phi_prior(h)
        phi_z = self.phi_z(prior.sample(epsilon_BZ))
        x, mean = self.likelihood.draw(self.phi_dec(join(phi_z, h)), noise_BX)
        _, states = self.f(join(self.phi_x(x), phi_z), states)
        return {"x": x, "mean": mean}, states
