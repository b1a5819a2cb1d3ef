use super::*;
use std::time::Duration;

fn truth() -> ClientTruth {
    ClientTruth {
        client: "Dallas".to_owned(),
        nearest: "New York".to_owned(),
        nearest_owd_ms: 18.0,
        margin_ms: 1.0,
        owd_ms: [("New York".to_owned(), 18.0), ("San Francisco".to_owned(), 19.0)].into(),
    }
}

fn record(number: u64, address: Option<[u8; 4]>) -> QueryRecord {
    QueryRecord {
        number,
        sent_after: Duration::ZERO,
        answered_after: address.map(|_| Duration::from_millis(90)),
        address: address.map(Ipv4Addr::from),
        sendings: 1,
        over_tcp: false,
    }
}

fn site_of(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets()[3] {
        1 => Some("New York"),
        2 => Some("San Francisco"),
        _ => None,
    }
}

fn dallas() -> ClientReport {
    let records = [
        record(0, Some([192, 0, 2, 1])),
        record(1, Some([192, 0, 2, 1])),
        record(2, Some([192, 0, 2, 2])),
        record(3, Some([192, 0, 2, 9])),
        record(4, None),
    ];
    ClientReport::of(&truth(), ("unbound", "1.17.1"), &records, 5, site_of)
}

fn report() -> Report {
    let berlin = ClientReport {
        name: "Berlin".to_owned(),
        resolver: "builtin".to_owned(),
        resolver_version: String::new(),
        nearest: "Frankfurt".to_owned(),
        nearest_owd_ms: 5.0,
        margin_ms: 40.0,
        queries: 1_200,
        answered: 1_200,
        races: 1_200,
        wins: [("Frankfurt".to_owned(), 1_200)].into(),
        nearest_share: 1.0,
        mean_penalty_ms: 0.0,
    };
    Report {
        scenario: "cities".to_owned(),
        seed: 7,
        seconds: 30,
        clients: vec![berlin, dallas()],
        races: 1_205,
        start_spread_us: Spread { p50: 120.4, p90: 240.0, p99: 1_530.0 },
        lateness_us: SignedSpread { p1: -1.0, p50: 6.0, p90: 40.0, p99: 310.0 },
        clock_error_us: ErrorSpread { p50: 8.0, p90: 20.0, p99: 40.0, max: 66.0 },
        clock_bound_us: BoundSpread { p50: 69_000.0, max: 126_000.0 },
        clock_readings: 12_345,
        clock_bound_violations: 0,
        forward_delay_ms: [("Frankfurt".to_owned(), 6.9), ("Sydney".to_owned(), 126.4)].into(),
        predetermined_delay_ms: 131.25,
        cpu_steal_share: 0.004,
        attempts: 1,
        attempt_list: vec![Attempt {
            races: 1_205,
            cpu_steal_share: 0.004,
            nearest_share: 0.998,
            start_spread_us_p50: 120.4,
        }],
        notes: vec!["A note.".to_owned()],
        agreement: None,
    }
}

#[test]
fn a_percentile_is_the_nearest_rank() {
    let values: Vec<f64> = (1..=100).map(f64::from).collect();
    assert_eq!(percentile(&values, 0.5), 50.0);
    assert_eq!(percentile(&values, 0.99), 99.0);
    assert_eq!(percentile(&values, 1.0), 100.0);
    assert_eq!(percentile(&values, 0.0), 1.0);
    assert_eq!(percentile(&[3.0], 0.99), 3.0);
    assert_eq!(percentile(&[], 0.5), 0.0);
    let error = ErrorSpread::of_absolute(vec![-5.0, 1.0, 2.0]);
    assert_eq!((error.p50, error.max), (2.0, 5.0));
    assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]).p50, 2.0);
}

#[test]
fn a_clients_figures_follow_from_its_queries() {
    let dallas = dallas();
    assert_eq!((dallas.queries, dallas.answered, dallas.races), (5, 4, 5));
    assert_eq!(
        dallas.wins,
        [("New York".to_owned(), 2), ("San Francisco".to_owned(), 1), ("fallback".to_owned(), 1)].into()
    );
    assert_eq!(dallas.nearest_share, 0.5);
    // Twice the nearest, once 1 ms farther; the fallback tells no site.
    assert!((dallas.mean_penalty_ms - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!(dallas.mostly_sent_to(), Some("New York"));
    let nobody = ClientReport::of(&truth(), ("builtin", ""), &[record(0, None)], 0, site_of);
    assert_eq!((nobody.nearest_share, nobody.mean_penalty_ms), (0.0, 0.0));
    assert_eq!(nobody.mostly_sent_to(), None);
}

/// Regenerate with `UPDATE_GOLDEN=1 cargo test -p startgun-lab golden`, and read the difference.
fn assert_golden(name: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(actual, expected, "differs from {}", path.display());
}

#[test]
fn golden_text() {
    let text = report().to_text(Style { colour: false });
    assert!(!text.contains('\x1b'));
    assert_golden("report.txt", &text);
}

#[test]
fn golden_json() {
    assert_golden("report.json", &report().to_json().unwrap());
}

#[test]
fn json_has_the_agreed_names_first_and_in_order() {
    let json = report().to_json().unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let agreed = [
        "scenario",
        "seed",
        "seconds",
        "clients",
        "races",
        "start_spread_us",
        "lateness_us",
        "clock_error_us",
        "clock_bound_us",
        "clock_readings",
        "clock_bound_violations",
        "forward_delay_ms",
        "predetermined_delay_ms",
        "cpu_steal_share",
        "attempts",
    ];
    let client = [
        "name",
        "resolver",
        "resolver_version",
        "nearest",
        "nearest_owd_ms",
        "margin_ms",
        "queries",
        "answered",
        "races",
        "wins",
        "nearest_share",
        "mean_penalty_ms",
    ];
    for key in agreed {
        assert!(value.get(key).is_some(), "{key}");
    }
    for key in client {
        assert!(value["clients"][0].get(key).is_some(), "{key}");
    }
    assert_eq!(value["clients"][0].as_object().unwrap().len(), client.len());
    let positions: Vec<_> = agreed.iter().map(|key| json.find(&format!("\n  \"{key}\":")).unwrap()).collect();
    assert!(positions.is_sorted());
}

#[test]
fn colours_change_nothing_but_the_looks() {
    let coloured = report().to_text(Style { colour: true });
    assert!(coloured.contains("\x1b[32m") && coloured.contains("\x1b[33m"));
    let mut plain = coloured;
    for code in [BOLD, DIM, GREEN, YELLOW, RED, "0"] {
        plain = plain.replace(&format!("\x1b[{code}m"), "");
    }
    let expected = report().to_text(Style { colour: false });
    assert_eq!(plain, expected);
}
