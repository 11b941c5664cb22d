"""How vision-language planners are taught: questions from enumerated toolchains, supervised fine-tuning."""
