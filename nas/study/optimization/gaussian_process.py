"""A Gaussian process with a Matérn 5/2 kernel, fitted by maximum a posteriori."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]

MAX_FITTED = 200
"""Number of observations that hyperparameters are fitted to, at most."""


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A posterior in float64 on the CPU, with one length scale per feature.

    Attributes:
        x: (n, d) features of the observations.
        y: (n,) standardized values.
        noise: (n,) variances of the standardized values.
        lengths: (d,) length scales.
        signal: variance of the process.
        mean: that was subtracted from the values.
        scale: that the values were divided by.
    """

    x: torch.Tensor
    y: torch.Tensor
    noise: torch.Tensor
    lengths: torch.Tensor
    signal: torch.Tensor
    mean: float
    scale: float

    @classmethod
    def fit(cls, x: Floats, y: Floats, variance: Floats, steps: int = 60) -> GaussianProcess:
        """Fit to n observations; the hyperparameters to at most :data:`MAX_FITTED` of them, evenly spaced.

        Args:
            x: (n, d) features.
            y: (n,) values.
            variance: (n,) known noise variances, in addition to the fitted one.
            steps: of L-BFGS-B.
        """
        mean, scale = float(y.mean()), float(y.std()) or 1.0
        all_features = torch.from_numpy(np.asarray(x, dtype=np.float64))
        all_values = torch.from_numpy((np.asarray(y, dtype=np.float64) - mean) / scale)
        all_extra = torch.from_numpy(np.asarray(variance, dtype=np.float64) / scale**2)
        # A step of the fit is cubic in their number. Predictions, which use all observations, are cubic once.
        chosen = np.linspace(0, len(y) - 1, min(len(y), MAX_FITTED)).round().astype(int)
        features, values, extra = all_features[chosen], all_values[chosen], all_extra[chosen]
        d = features.shape[1]
        # Log-normal priors: length scales around the root of the dimension, signal around 1, noise around 0.05.
        prior = torch.full((d + 2,), 0.5 * math.log(d), dtype=torch.float64)
        prior[d], prior[d + 1] = 0.0, math.log(0.05)

        def negative_log_posterior(at: Floats) -> tuple[float, Floats]:
            raw = torch.from_numpy(at.copy()).requires_grad_(True)
            covariance = _matern(features, features, raw[:d].exp(), raw[d].exp())
            covariance = covariance + torch.diag(raw[d + 1].exp() + extra + 1e-6)
            factor = torch.linalg.cholesky(covariance)
            weights = torch.cholesky_solve(values.unsqueeze(-1), factor).squeeze(-1)
            likelihood = 0.5 * (values @ weights) + factor.diagonal().log().sum()
            loss = likelihood + 0.5 * (((raw - prior) / 0.8) ** 2).sum()
            loss.backward()
            assert raw.grad is not None
            return float(loss.detach()), raw.grad.numpy()

        # Five standard deviations of the priors; within them the covariance has a Cholesky factor.
        bounds = [(float(m) - 4, float(m) + 4) for m in prior]
        options = {"maxiter": steps}
        result = minimize(
            negative_log_posterior, prior.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        fitted = torch.from_numpy(np.asarray(result.x, dtype=np.float64))
        noise = fitted[d + 1].exp() + all_extra + 1e-6
        return cls(all_features, all_values, noise, fitted[:d].exp(), fitted[d].exp(), mean, scale)

    def condition_on_mean(self, x: Floats) -> GaussianProcess:
        """The same process with further points (m, d), observed at their predicted means."""
        mean, _ = self.predict(x)
        return GaussianProcess(
            torch.cat([self.x, torch.from_numpy(x)]),
            torch.cat([self.y, torch.from_numpy((mean - self.mean) / self.scale)]),
            torch.cat([self.noise, self.noise.min().expand(len(x))]),
            self.lengths,
            self.signal,
            self.mean,
            self.scale,
        )

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, (n,) each, of the noise-free values at (n, d) features."""
        new = torch.from_numpy(np.asarray(x, dtype=np.float64))
        covariance = _matern(self.x, self.x, self.lengths, self.signal) + torch.diag(self.noise)
        factor = torch.linalg.cholesky(covariance)
        cross = _matern(new, self.x, self.lengths, self.signal)
        mean = cross @ torch.cholesky_solve(self.y.unsqueeze(-1), factor).squeeze(-1)
        reduced = torch.linalg.solve_triangular(factor, cross.T, upper=False)
        variance = (self.signal - reduced.square().sum(dim=0)).clamp_min(1e-8)
        return (mean * self.scale + self.mean).numpy(), (variance.sqrt() * self.scale).numpy()


def _matern(a: torch.Tensor, b: torch.Tensor, lengths: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    a, b = a / lengths, b / lengths
    squares = a.square().sum(-1).unsqueeze(1) + b.square().sum(-1) - 2 * (a @ b.T)
    r = (5 * squares.clamp_min(0) + 1e-12).sqrt()
    out: torch.Tensor = signal * (1 + r + r.square() / 3) * (-r).exp()
    return out
