"""Risk thresholds: calibrated, never trained, but made and shipped as what is trained."""
