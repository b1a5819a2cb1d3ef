//! The zones that all servers serve, and what they are asked.
//!
//! ```text
//! small    bench.test.  1,000 names h0000000 … with an A record each    plain, nxdomain
//! million  bench.test.  the same with 1,000,000                         million
//! signed   bench.test.  the small one, signed (ECDSA P-256, NSEC)       signed
//! ```
//!
//! Signed once, offline, for all servers: whoever serves it answers with the same signatures. Names are drawn at random,
//! from a fixed seed, so that nobody's caches are warmed by the order of the zone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::tools::Tools;

/// The zone's name, without its last dot.
pub const APEX: &str = "bench.test";
/// A name of every zone.
pub const FIRST_NAME: &str = "h0000000.bench.test";
/// Names of the small zone.
const SMALL: u32 = 1_000;
/// Queries of a file that is asked again and again: enough that no processor's branch predictor learns it by heart.
const QUERIES: usize = 100_000;
/// Queries of the file for the great zone, so that most of it is asked for; and of the races', each of which has a name of
/// its own: at 150,000 a second a name comes back after 3 s, when its race has long been over.
const MANY_QUERIES: usize = 500_000;
/// Where the random numbers start.
const SEED: u64 = 0x5eed;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A name of the small zone.
    Plain,
    /// A name that the small zone does not have.
    NoSuchName,
    /// A name of the great zone.
    Million,
    /// A name of the signed zone, with its signature.
    Signed,
}

impl Kind {
    /// All of them, in the order of the report.
    pub const ALL: [Kind; 4] = [Kind::Plain, Kind::NoSuchName, Kind::Million, Kind::Signed];

    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::NoSuchName => "nxdomain",
            Kind::Million => "million",
            Kind::Signed => "signed",
        }
    }

    /// Which zone it takes.
    pub fn zone(self) -> ZoneKind {
        match self {
            Kind::Plain | Kind::NoSuchName => ZoneKind::Small,
            Kind::Million => ZoneKind::Million,
            Kind::Signed => ZoneKind::Signed,
        }
    }

    /// What must be answered.
    pub fn response_code(self) -> &'static str {
        if self == Kind::NoSuchName { "NXDOMAIN" } else { "NOERROR" }
    }
}

/// A zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ZoneKind {
    /// A thousand names.
    Small,
    /// A million.
    Million,
    /// The small one, signed.
    Signed,
}

impl ZoneKind {
    /// All of them.
    pub const ALL: [ZoneKind; 3] = [ZoneKind::Small, ZoneKind::Million, ZoneKind::Signed];

    /// As in file names.
    pub fn name(self) -> &'static str {
        match self {
            ZoneKind::Small => "small",
            ZoneKind::Million => "million",
            ZoneKind::Signed => "signed",
        }
    }
}

/// The files.
pub struct Zones {
    directory: PathBuf,
}

impl Zones {
    /// Writes all zones and queries into a directory; the great zone has `names` names.
    ///
    /// # Errors
    /// A sentence with the file, or of the signer.
    pub fn write(directory: &Path, tools: &Tools, names: u32) -> Result<Self, String> {
        let zones = Zones { directory: directory.to_owned() };
        write(&zones.zone(ZoneKind::Small), &zone(SMALL))?;
        write(&zones.zone(ZoneKind::Million), &zone(names))?;
        zones.sign(tools)?;
        for kind in Kind::ALL {
            let (of, lines) = if kind == Kind::Million { (names, MANY_QUERIES) } else { (SMALL, QUERIES) };
            let first = if kind == Kind::NoSuchName { 'n' } else { 'h' };
            let mut random = Random(SEED);
            let drawn = (0..lines).map(|_| random.below(of));
            write(&zones.queries(kind), &queries(drawn.map(|number| format!("{first}{number:07}"))))?;
        }
        write(&zones.races(), &queries((0..MANY_QUERIES).map(|number| format!("r{number:07}.race"))))?;
        Ok(zones)
    }

    /// A zone's file.
    pub fn zone(&self, kind: ZoneKind) -> PathBuf {
        self.directory.join(format!("{}.zone", kind.name()))
    }

    /// The queries of what is measured, as dnsperf reads them.
    pub fn queries(&self, kind: Kind) -> PathBuf {
        self.directory.join(format!("{}.queries", kind.name()))
    }

    /// The queries of the races.
    pub fn races(&self) -> PathBuf {
        self.directory.join("races.queries")
    }

    fn sign(&self, tools: &Tools) -> Result<(), String> {
        let key = |options: &[&str]| {
            let mut command = tools.keygen.command();
            command.args(["-a", "ECDSAP256SHA256", "-r", "/dev/urandom"]).args(options).arg(APEX);
            tools.keygen.run(command.current_dir(&self.directory)).map(|name| name.trim().to_owned())
        };
        let (signs_keys, signs_zone) = (key(&["-k"])?, key(&[])?);
        let mut command = tools.signzone.command();
        command.args(["-o", APEX, "-f"]).arg(self.zone(ZoneKind::Signed)).arg(self.zone(ZoneKind::Small));
        command.args([signs_zone, signs_keys]).current_dir(&self.directory);
        tools.signzone.run(&mut command).map(drop)
    }
}

fn zone(names: u32) -> String {
    let mut text = format!(
        "$ORIGIN {APEX}.\n$TTL 3600\n@ IN SOA ns host 1 3600 600 86400 3600\n@ IN NS ns\nns IN A 198.51.100.1\n"
    );
    for number in 0..names {
        let [_, a, b, c] = number.to_be_bytes();
        let _ = writeln!(text, "h{number:07} IN A 10.{a}.{b}.{c}");
    }
    text
}

fn queries(names: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for name in names {
        let _ = writeln!(text, "{name}.{APEX} A");
    }
    text
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Numbers without a pattern: SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % u64::from(bound)) as u32
    }
}
