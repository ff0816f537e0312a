# make demo    a film from a shipped portrait and voice, with nothing but the runtime installed
# make test    the test suite, with everything installed, but tests/desktop, which want a screen and real time
# make test-plugs   the plugs against the packages that they fit, in an environment of their own: 1.4 GB
# make test-desktop the desktop app on a screen and sound devices of its own; says what it lacks
# make check   format, lint, types, import direction
#
# Variables: PYTHON, PORTRAIT, VOICE, SIZE, DEMO_FLAGS (more options of `visavis talk`), TEST_FLAGS (of pytest).

PYTHON ?= python3
PORTRAIT ?= $(firstword $(sort $(wildcard assets/portraits/*.jpg assets/portraits/*.png assets/portraits/*.webp)))
VOICE ?= $(firstword $(sort $(wildcard assets/speech/*.flac assets/speech/*.ogg assets/speech/*.wav)))
SIZE ?= 256

RUNTIME := .venv
FULL := .venv-test
PLUGS := .venv-plugs
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-plugs test-desktop check format clean

demo: $(RUNTIME)/installed
	@mkdir -p out
	@$(RUNTIME)/bin/visavis talk $(PORTRAIT) $(VOICE) -o out/demo.mp4 --size $(SIZE) --json $(DEMO_FLAGS)

test: $(FULL)/installed
	$(FULL)/bin/python -m pytest --ignore=tests/desktop $(TEST_FLAGS)

# -rs: where Xvfb, PulseAudio or Qt's libraries are missing, the tests skip and say so; .ci/run names the packages.
test-desktop: $(FULL)/installed
	$(FULL)/bin/python -m pytest -rs tests/desktop tests/test_desktop_*.py tests/test_bench_desktop.py $(TEST_FLAGS)

# Pipecat and FastRTC want older protobuf, pillow and soxr than the rest; bitHuman's plugin is tested without the closed
# package that it would bring for its local mode.
test-plugs: $(PLUGS)/installed
	$(PLUGS)/bin/python -m pytest tests/test_plugs_*.py $(TEST_FLAGS)

check: $(FULL)/installed
	$(FULL)/bin/ruff format --check .
	$(FULL)/bin/ruff check .
	$(FULL)/bin/mypy
	$(FULL)/bin/python -m pytest tests/test_architecture.py

format: $(FULL)/installed
	$(FULL)/bin/ruff format .
	$(FULL)/bin/ruff check --fix .

$(RUNTIME)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python $(PIP) --no-compile -e .
	@touch $@

$(FULL)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(FULL)
	$(FULL)/bin/python $(PIP) -e '.[train,export,eval,dev,desktop]'
	@touch $@

$(PLUGS)/installed: pyproject.toml constraints-plugs.txt
	$(PYTHON) -m venv $(PLUGS)
	$(PLUGS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints-plugs.txt \
		-e '.[livekit,pipecat,fastrtc,webrtc,server]' pytest simli-ai livekit-plugins-liveavatar livekit-plugins-simli
	$(PLUGS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints-plugs.txt \
		--no-deps livekit-plugins-bithuman
	@touch $@

clean:
	rm -rf $(RUNTIME) $(FULL) $(PLUGS) build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache
