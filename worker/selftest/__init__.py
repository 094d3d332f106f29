"""Whether this machine computes right: small models trained from fixed weights must give the numbers known beforehand."""
