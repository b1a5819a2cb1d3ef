//! Every clock scenario once, small. With all seeds: `make clock-scenarios`.

use startgun_sim::scenario::{Scale, all};

/// The seed of the reduced runs.
const SEED: u64 = 1;

fn run(name: &str) {
    let scenarios = all();
    let Some(scenario) = scenarios.iter().find(|scenario| scenario.name == name) else {
        panic!("{name:?} is no scenario");
    };
    let mut figures = scenario.run(SEED, Scale::Reduced);
    figures.sort();
    let broken = figures.judge(&scenario.limits_at(Scale::Reduced));
    assert!(broken.is_empty(), "{name}, seed {SEED}: {broken:#?}");
    // What was not run proves nothing.
    assert!(figures.exchanges >= 100 && figures.readings > figures.exchanges, "{name}, seed {SEED}: {figures:?}");
}

/// One test per scenario, so that they run side by side and are named when they fail.
macro_rules! scenarios {
    ($($(#[$attribute:meta])* $test:ident: $name:literal,)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $test() {
                run($name);
            }
        )*

        #[test]
        fn every_scenario_is_a_test() {
            let tests = [$($name),*];
            let names: Vec<&str> = all().iter().map(|scenario| scenario.name).collect();
            assert_eq!(names, tests);
        }
    };
}

scenarios! {
    symmetric_jitter: "symmetric-jitter",
    asymmetric_jitter: "asymmetric-jitter",
    heavy_tail: "heavy-tail",
    bursts: "bursts",
    loss_30: "loss-30",
    reordering: "reordering",
    asymmetric_path: "asymmetric-path",
    asymmetric_path_configured: "asymmetric-path-configured",
    one_way_nothing: "one-way-nothing",
    route_change_both_ways: "route-change-both-ways",
    route_change_one_way: "route-change-one-way",
    access_line: "access-line",
    delayer_slow: "delayer-slow",
    delayer_selective: "delayer-selective",
    wander_weather: "wander-weather",
    wander_large: "wander-large",
    wander_fast: "wander-fast",
    wander_large_near: "wander-large-near",
    wander_fast_near: "wander-fast-near",
    step_1s: "step-1s",
    step_5ms: "step-5ms",
    step_5ms_at_the_edge: "step-5ms-at-the-edge",
    master_step_1s: "master-step-1s",
    pause_3s: "pause-3s",
    suspend_30s: "suspend-30s",
    suspend_30s_untold: "suspend-30s-untold",
    master_restart: "master-restart",
    master_reboot: "master-reboot",
    silence_60s: "silence-60s",
    silence_10min: "silence-10min",
    silence_one_way: "silence-one-way",
    mesh_50_agents: "mesh-50-agents",
    mesh_50_agents_off: "mesh-50-agents-off",
}
