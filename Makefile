# Everything that this repository can do, by one word each. CI runs `make lint` and `make test`, and nothing else.

CARGO ?= cargo
# Passed on to demo, bench-clock, bench-dns, clock-scenarios and chaos: make demo ARGS="--scenario lan --seconds 10"
ARGS ?=

.PHONY: help demo demo-deps sim-vs-lab test lint bench bench-clock bench-departure clock-scenarios conformance check-authority bench-dns fuzz chaos

help:
	@echo "make demo       build, then race real resolvers on an emulated WAN (ARGS=... goes to the demo)"
	@echo "make demo-deps  install those resolvers, as root; else say which are missing"
	@echo "make test       run all tests; each skipped one is named with its reason"
	@echo "make lint       formatting, clippy, licences of the dependencies"
	@echo "make bench      run the benches"
	@echo "make bench-clock  Startgun's clock beside chrony's, ten minutes, as root (ARGS=--quick for some seconds)"
	@echo "make bench-dns  answers and races beside Knot, NSD and gdnsd, a quarter of an hour (ARGS=--quick for a minute)"
	@echo "make bench-departure  lateness of departures beside a bare loop's, 80 s"
	@echo "make conformance  answers beside those of BIND, NSD, Knot and PowerDNS, over UDP and TCP (ARGS=--all)"
	@echo "make check-authority  zonemaster, dnsviz and nmap dns-fuzz on a master in a namespace, as root"
	@echo "make fuzz       run each fuzz target for a minute, guided by coverage (ARGS=\"--seconds 600 TARGET\")"
	@echo "make sim-vs-lab  one scenario with real processes and in the simulator, and how far they agree"
	@echo "make chaos      search small worlds for faults, a million races, and for planted bugs (ARGS=\"--seeds A..B\")"
	@echo "make clock-scenarios  judge a million simulated exchanges (ARGS=\"--scenario NAME --seeds A..B\" replays)"

demo:
	@scripts/demo-deps || echo "make demo: going on with what is installed; without any, a built-in stub asks"
	$(CARGO) run --release --locked -p startgun -- demo $(ARGS)

sim-vs-lab:
	$(CARGO) run --release --locked -p startgun -- demo --clients builtin --simulate $(ARGS)

demo-deps:
	scripts/demo-deps

test:
	scripts/run-tests

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	scripts/check-dependencies

bench:
	$(CARGO) bench --locked -p startgun-sim --bench shard

bench-clock:
	scripts/bench-deps chrony
	$(CARGO) bench --locked -p startgun --bench clock -- $(ARGS)

bench-dns:
	scripts/bench-deps dns
	$(CARGO) bench --locked -p startgun --bench dns -- $(ARGS)

bench-departure:
	$(CARGO) bench --locked -p startgun-net --bench departure

clock-scenarios:
	$(CARGO) bench --locked -p startgun-sim --bench clock_scenarios -- $(ARGS)

chaos:
	$(CARGO) run --release --locked -p startgun -- sim --chaos $(ARGS)
	$(CARGO) test --release --locked -p startgun-sim --features planted-bugs --test planted_bugs_are_found -- --nocapture

conformance:
	$(CARGO) build --release --locked -p startgun
	scripts/conformance $(ARGS)

check-authority:
	$(CARGO) build --release --locked -p startgun
	scripts/check-authority --install $(ARGS)
	scripts/check-authority

fuzz:
	scripts/fuzz $(ARGS)
