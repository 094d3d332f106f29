"""`python -m diffusion_at_home` is `dah`."""

from diffusion_at_home.cli import main

if __name__ == "__main__":
    main()
