"""The network, its objective, and what turns weights into pictures and figures."""
