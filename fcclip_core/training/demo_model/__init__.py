"""How the bundled demo model was trained."""
