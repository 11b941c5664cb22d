"""Learning by reward: what a step is paid, the environments, and the learners."""
