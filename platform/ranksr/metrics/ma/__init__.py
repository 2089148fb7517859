"""Ma's features, forests and model, exact to the authors' MATLAB code (Ma et al. 2017)."""
