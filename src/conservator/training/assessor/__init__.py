"""What teaches the embedded assessor: a nano vision-language model that says how good a picture looks."""
