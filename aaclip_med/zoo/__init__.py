"""What MONAI's model zoo and MONAI Label ask of a bundle."""
