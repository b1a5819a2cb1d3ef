use super::*;

const THREE: &str = r#"
name = "three"
master = "hub"
agents = ["north", "south"]
clients = ["farm", "north"]
split = 0.25

[matrix]
names = ["hub", "north", "south", "farm"]
rtt_ms = [[], [20], [30, 40], [25, 10, 48]]
"#;

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(text, Path::new("dir/three.toml"))
}

#[test]
fn every_builtin_scenario_is_valid_and_is_named_as_asked() {
    for name in Scenario::builtin_names() {
        assert_eq!(Scenario::builtin(name).unwrap().name, name);
        assert_eq!(Scenario::find(name).unwrap().name, name);
    }
    assert!(matches!(Scenario::find("nowhere"), Err(ScenarioError::Unknown { .. })));
}

#[test]
fn cities_has_six_sites_eight_clients_and_six_clear_winners() {
    let cities = Scenario::builtin("cities").unwrap();
    assert_eq!((cities.agents.len(), cities.clients.len()), (6, 8));
    let clear = cities.truth().iter().filter(|truth| truth.margin_ms >= 2.0).count();
    assert!(clear >= 6, "{clear}");
    assert!((0.2..=0.3).contains(&cities.jitter_ms));
}

#[test]
fn the_truth_follows_the_split() {
    let scenario = parse(THREE).unwrap();
    let truth = scenario.truth();
    // north stands before farm in the file: north to farm takes a quarter of 10 ms, south to farm a quarter of 48.
    assert_eq!(truth[0].nearest, "north");
    assert!((truth[0].nearest_owd_ms - 2.5).abs() < 1e-9);
    assert!((truth[0].margin_ms - 9.5).abs() < 1e-9);
    assert!((truth[0].penalty_ms("south").unwrap() - 9.5).abs() < 1e-9);
    assert_eq!(truth[0].penalty_ms("mars"), None);
    // An agent and a client of one city.
    assert_eq!(truth[1].nearest, "north");
    assert!((truth[1].nearest_owd_ms - map::RTT_FLOOR_MS / 2.0).abs() < 1e-9);
    assert_eq!(scenario.one_way_ns("farm", "north"), 7_500_000);
    // Two clients: by the map where it knows the path.
    assert_eq!(scenario.one_way_ns("north", "farm"), 2_500_000);
}

#[test]
fn the_same_seed_draws_the_same_clocks_within_the_ranges() {
    let scenario = parse(THREE).unwrap();
    let draws = scenario.clock_draws(7);
    assert_eq!(draws, scenario.clock_draws(7));
    assert_ne!(draws, scenario.clock_draws(8));
    assert_eq!((draws.agents.len(), draws.clients.len()), (2, 2));
    for draw in draws.agents.iter().chain(&draws.clients) {
        assert!(draw.offset_ns.abs() <= 5_000_000_000, "{draw:?}");
        assert!(draw.drift_ppb.abs() <= 50_000, "{draw:?}");
    }
    assert_ne!(draws.agents[0], draws.agents[1]);
    let fixed =
        parse(&THREE.replace("split", "clock_offset_s = [2.5, 2.5]\nclock_drift_ppm = [-3, -3]\nsplit")).unwrap();
    let expected = ClockDraw { offset_ns: 2_500_000_000, drift_ppb: -3_000 };
    assert_eq!(fixed.clock_draws(1).master, expected);
}

#[test]
fn pairs_and_a_csv_file_give_the_same_world_as_a_matrix() {
    let matrix = parse(THREE).unwrap();
    let (head, _) = THREE.split_once("[matrix]").unwrap();
    let mut pairs = head.to_owned();
    for (a, b, rtt) in [
        ("hub", "north", 20),
        ("hub", "south", 30),
        ("north", "south", 40),
        ("hub", "farm", 25),
        ("north", "farm", 10),
        ("south", "farm", 48),
    ] {
        pairs += &format!("[[pair]]\na = \"{a}\"\nb = \"{b}\"\nrtt_ms = {rtt}\n");
    }
    assert_eq!(parse(&pairs).unwrap().truth(), matrix.truth());

    let directory = std::env::temp_dir().join(format!("startgun-scenario-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(
        directory.join("rtt.csv"),
        ",hub,north,south,farm\nhub,0,20,30,25\nnorth,20,0,40,10\nsouth,30,40,0,48\nfarm,25,10,48,0\n",
    )
    .unwrap();
    let file = directory.join("three.toml");
    fs::write(&file, head.replace("split", "rtt_ms = \"rtt.csv\"\nsplit")).unwrap();
    let loaded = Scenario::load(&file);
    fs::write(directory.join("rtt.csv"), ",hub\nhub,zero\n").unwrap();
    let broken = Scenario::load(&file).unwrap_err().to_string();
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(loaded.unwrap().truth(), matrix.truth());
    assert!(broken.contains("rtt.csv:2:2: \"zero\": expected"), "{broken}");
}

#[test]
fn errors_name_file_line_key_and_what_was_expected() {
    let (head, map) = THREE.split_once("[matrix]").unwrap();
    let replace = |from: &str, to: &str| THREE.replacen(from, to, 1);
    let cases = [
        (replace("split", "spilt"), "dir/three.toml:6:1: unknown field `spilt`"),
        (replace("0.25", "1.25"), "dir/three.toml:6:9: split = 1.25: expected a number from 0 to 1"),
        (replace("0.25", "nan"), "split = NaN: expected"),
        (replace("0.25", "\"half\""), "dir/three.toml:6:9: invalid type: string"),
        (replace("\"south\"]", "\"soth\"]"), "dir/three.toml:4:20: agents: \"soth\": expected a name of the map"),
        (replace("\"south\"]", "\"north\"]"), "dir/three.toml:4:20: agents: \"north\" is given twice"),
        (replace("[\"north\", \"south\"]", "[]"), "agents = []: expected at least one name"),
        (replace("master = \"hub\"\n", ""), "missing field `master`"),
        (replace("[25, 10, 48]", "[25, 10]"), "dir/three.toml:5:12: the map has no RTT between \"south\" and \"farm\""),
        (replace("[25, 10, 48]", "[25, 10, -4]"), "matrix: row of \"farm\", column of \"south\": RTT -4: expected"),
        (replace("split", "jitter_ms = -1\nsplit"), "jitter_ms = -1: expected a number from 0"),
        (replace("split", "loss = 2\nsplit"), "loss = 2: expected a number from 0 to 1"),
        (replace("split", "clock_offset_s = [5, -5]\nsplit"), "clock_offset_s = [5, -5]: expected [lowest, highest]"),
        (replace("split", "rtt_ms = \"x.csv\"\nsplit"), "several maps"),
        (head.to_owned(), "no map: expected"),
        (format!("{head}rtt_ms = \"no-such.csv\"\n"), "rtt_ms: cannot read dir/no-such.csv"),
        (format!("{head}[[pair]]\na = \"hub\"\nb = \"hub\"\nrtt_ms = 1\n"), "expected two different names"),
        (format!("{head}[matrix]{map}[matrix]"), "dir/three.toml:"),
    ];
    for (text, part) in cases {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}\nshould contain\n{part}");
    }
}
