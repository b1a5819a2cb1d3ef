//! The options of a forecast.

use startgun_core::time::Span;
use std::path::PathBuf;
use std::str::FromStr;

/// Sites per draw when nothing else is said.
pub const SITES_DEFAULT: usize = 12;
/// Most draws: hours of two cores' time.
const DRAWS_MAX: u64 = 10_000;
/// Largest fixed predetermined delay, in ms: what the default of a master's `max_total_delay` lets pass.
const DELAY_MS_MAX: f64 = 300.0;
/// Largest standard deviation of the asymmetry: with one in 40 pairs, all of the round trip would be in one direction.
const ASYMMETRY_SD_MAX: f64 = 0.2;
/// Largest standard deviation of host clocks: four of them are within the reach of an order.
const CLOCK_SD_MAX: Span = Span::from_millis(50);

#[derive(Clone, Debug, clap::Args)]
pub struct ForecastArgs {
    /// Round trips in ms between all nodes: a square CSV, with names in the first row and column or with none, or pairs
    /// under the header src,dst,rtt_min_ms,rtt_avg_ms,rtt_max_ms,mdev_ms [default: a built-in model of world cities]
    #[arg(long, value_name = "FILE")]
    pub rtt: Option<PathBuf>,
    /// Where the nodes are: a CSV with a header, among it id or name, lat, lon; the nearest site by distance is then compared,
    /// and nodes without coordinates are left out
    #[arg(long, value_name = "FILE", requires = "rtt")]
    pub coordinates: Option<PathBuf>,
    /// The sites, by name; all other nodes are clients
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "sites_random")]
    pub sites: Vec<String>,
    /// Draw so many sites at random, anew for each draw [default: 12, at most half of the nodes]
    #[arg(long, value_name = "K")]
    pub sites_random: Option<usize>,
    /// How many draws: each has asymmetries, clocks and, where they are random, sites of its own
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=DRAWS_MAX))]
    pub draws: u64,
    /// Nodes to leave out
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub exclude: Vec<String>,
    /// How uneven the two directions of a path are: of a round trip R, R × (½ + e) passes one way and R × (½ − e) the other,
    /// with e drawn for each pair from a normal distribution of this standard deviation
    #[arg(long, value_name = "SD", default_value_t = 0.05, value_parser = asymmetry)]
    pub asymmetry_sd: f64,
    /// The node that the master is at [default: the first site's]
    #[arg(long, value_name = "NAME")]
    pub master: Option<String>,
    /// How clocks are set: host:SD (disciplined by their hosts, wrong by this standard deviation, as host:0.1ms), master
    /// (by exchanges with the master alone), mesh (among all agents, as deployed) or perfect
    #[arg(long, value_name = "CLOCK", default_value = "mesh")]
    pub clock: ClockChoice,
    /// The predetermined delay in ms [default: as --cover]
    #[arg(long, value_name = "MS", conflicts_with = "cover", value_parser = delay_ms)]
    pub delay: Option<f64>,
    /// The least predetermined delay by which this share of the agents have their orders, above 0 and up to 1 [default: 1]
    #[arg(long, value_name = "Q", value_parser = cover)]
    pub cover: Option<f64>,
    /// Form of the report on standard output; html has charts, for which further races are simulated
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub report: Format,
    /// Seed of all that is drawn at random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
    Html,
}

/// How the agents' clocks are set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClockChoice {
    /// By host clocks whose errors have this standard deviation.
    Host(Span),
    /// By two-way exchanges with the master alone.
    Master,
    /// By exchanges among all agents, besides.
    Mesh,
    /// Without error.
    Perfect,
}

impl FromStr for ClockChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "master" => Ok(ClockChoice::Master),
            "mesh" => Ok(ClockChoice::Mesh),
            "perfect" => Ok(ClockChoice::Perfect),
            _ => match text.strip_prefix("host:") {
                Some(span) => duration(span).map(ClockChoice::Host),
                None => Err("expected host:SD (as host:0.1ms), master, mesh or perfect".to_owned()),
            },
        }
    }
}

/// A standard deviation such as `0.1ms`, `100us` or `2s`.
fn duration(text: &str) -> Result<Span, String> {
    const UNITS_MS: [(&str, f64); 5] = [("ns", 1e-6), ("us", 1e-3), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let expected = || format!("{text:?}: expected a number and ns, us, ms or s, from 0 to {CLOCK_SD_MAX}, as 0.1ms");
    let of_unit = |(unit, ms): &(&str, f64)| Some((text.strip_suffix(unit)?, *ms));
    let (number, unit_ms) = UNITS_MS.iter().find_map(of_unit).ok_or_else(expected)?;
    let ms = number.trim().parse::<f64>().map_err(|_| expected())? * unit_ms;
    if (0.0..=CLOCK_SD_MAX.as_millis_f64()).contains(&ms) { Ok(Span::from_millis_f64(ms)) } else { Err(expected()) }
}

fn number(text: &str, is_good: impl Fn(&f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse().ok().filter(is_good).ok_or_else(|| format!("expected a number {expected}"))
}

fn asymmetry(text: &str) -> Result<f64, String> {
    number(text, |sd| (0.0..=ASYMMETRY_SD_MAX).contains(sd), &format!("from 0 to {ASYMMETRY_SD_MAX}"))
}

fn delay_ms(text: &str) -> Result<f64, String> {
    number(text, |ms| (0.0..=DELAY_MS_MAX).contains(ms), &format!("of milliseconds from 0 to {DELAY_MS_MAX}"))
}

fn cover(text: &str) -> Result<f64, String> {
    number(text, |share| *share > 0.0 && *share <= 1.0, "above 0 and up to 1")
}
