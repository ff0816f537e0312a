"""Who is kept back by name: people on photographs that nothing is trained on, so that all can be judged on them."""

TEST_PORTRAITS: tuple[str, ...] = (
    "057", "061", "062", "068", "073", "087", "090", "echomimic_v2-088", "echomimic_v3-145", "opentalking-companion",
)  # fmt: skip
"""File names without suffix; chosen for variety of age, skin, hair and light."""
