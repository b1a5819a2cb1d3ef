//! Where UTC lies on this host's local clock, and how far that can be believed.
//!
//! Every host has a clock that claims to show UTC; few can say how wrong it may be. The kernel keeps a field for that
//! (`maxerror` of adjtimex(2)), and believing it is the obvious answer. It fails twice: systemd-timesyncd and OpenNTPD
//! write 0 there whatever the truth is, and where nobody keeps the clock the field is only what somebody left behind. So
//! the kernel's word is taken only where a daemon that keeps count is known to run (`owner`), or not at all: the operator
//! may state a bound instead, and then everything that is derived from it holds on that condition
//! ([`HostTime::stated`]). Better sources say their own bound: the clock-bound daemon, through shared memory, or a
//! clock in hardware (PHC) whose quality only the operator knows.
//!
//! UTC here is nanoseconds since 1970, with leap seconds as the kernel counts them; around a leap second, when hosts
//! disagree by a second for a moment, there is no answer. The kernel's TAI offset is never used: it is mostly unset, and
//! CLOCK_TAI then silently equals UTC.
//!
//! A reading takes microseconds, or milliseconds when /proc is searched: about once a second, away from packets.

mod clock_bound;
mod kernel;
mod owner;
mod phc;
#[cfg(test)]
mod tests;

use crate::host_clock::{HostClock, raw_ns};
use owner::Owners;
use phc::Phc;
use startgun_core::time::{LocalTime, Span};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where the clock-bound daemon keeps its shared memory, unless it was told otherwise.
pub use clock_bound_client::CLOCKBOUND_SHM_DEFAULT_PATH as CLOCK_BOUND_PATH;

/// Where UTC lies on the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTime {
    /// When that was so. Later, both figures of error grow by what the two clocks may drift.
    pub at: LocalTime,
    /// UTC (nanoseconds since 1970, leap seconds as the kernel counts them) − the local clock.
    pub utc_minus_local: Span,
    /// UTC is within this of what is said; never negative.
    pub bound: Span,
    /// How wrong it probably is, at most the bound. The bound itself where the source says no more.
    pub expected_error: Span,
    /// Who said so.
    pub source: HostSource,
    /// The bound is the operator's word: what is derived from it holds on that condition.
    pub stated: bool,
}

impl From<HostTime> for startgun_core::clock::host::HostTime {
    fn from(HostTime { at, utc_minus_local, bound, stated, .. }: HostTime) -> Self {
        startgun_core::clock::host::HostTime { at, utc_minus_local, bound, stated }
    }
}

/// Who tells UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostSource {
    /// The kernel's clock, kept by chrony or ntpd, or by whom the operator trusts.
    Kernel,
    /// The clock-bound daemon.
    ClockBound,
    /// A clock in hardware.
    Phc,
}

impl HostSource {
    /// The word for it, in configuration and reports.
    pub const fn word(self) -> &'static str {
        match self {
            HostSource::Kernel => "kernel",
            HostSource::ClockBound => "clock-bound",
            HostSource::Phc => "phc",
        }
    }
}

/// Which source is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostChoice {
    /// The clock-bound daemon where its shared memory is there, else the kernel. A daemon that is there and not well is
    /// not passed over: it may know why the kernel's clock is wrong.
    #[default]
    Auto,
    /// This one.
    Only(HostSource),
    /// None.
    Nothing,
}

/// What an operator configures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTimeOptions {
    /// Which source.
    pub choice: HostChoice,
    /// The bound that the operator states for the kernel's clock or the PHC; above 0. The clock-bound daemon has its own.
    pub stated_bound: Option<Span>,
    /// The hardware clock.
    pub phc: Option<PhcOptions>,
    /// The clock-bound daemon's shared memory, [`CLOCK_BOUND_PATH`] by default.
    pub clock_bound_path: Option<PathBuf>,
}

/// A hardware clock, as its operator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhcOptions {
    /// Its device, such as `/dev/ptp0`.
    pub device: PathBuf,
    /// What it shows − UTC: 37 s where it counts TAI, as PTP does (since 2017); 0 where it counts UTC.
    pub minus_utc: Span,
}

/// Why there is no believable UTC on this host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// By configuration.
    #[error("the host's clock is not used (host_source)")]
    Off,
    /// STA_UNSYNC is set, or the state is TIME_ERROR.
    #[error("the kernel's clock is not synchronised (STA_UNSYNC; chrony clears it only with its directive rtcsync)")]
    Unsynchronised,
    /// No daemon that keeps count was found.
    #[error(
        "nobody is known to keep the kernel's clock: no chronyd (without -x) and no ntpd among the processes seen from \
         here; where one runs elsewhere, state a bound (host_bound_ms)"
    )]
    NoOwner,
    /// A daemon that does not keep count was found; its name.
    #[error(
        "{0} keeps the kernel's clock, and claims an error of 0 whatever it is: use chrony, or state a bound (host_bound_ms)"
    )]
    Uncounted(&'static str),
    /// The kernel's `maxerror` is 0.
    #[error("the kernel's clock is claimed to have no error at all (maxerror 0)")]
    NoError,
    /// A leap second is near.
    #[error("a leap second is being counted")]
    LeapSecond,
    /// The clock-bound daemon cannot be asked; why.
    #[error("clock-bound at {}: {reason}", path.display())]
    ClockBound {
        /// Its shared memory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The hardware clock cannot be read; why.
    #[error("hardware clock {}: {reason}", device.display())]
    Phc {
        /// Its device.
        device: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The hardware clock needs a device, its scale and a bound.
    #[error("a hardware clock needs its device (phc_device), its scale (phc_minus_utc_s) and a bound (host_bound_ms)")]
    PhcIncomplete,
    /// The kernel does not answer.
    #[error("adjtimex: {0}")]
    Kernel(String),
}

/// Reads UTC from the configured source.
#[derive(Debug)]
pub struct HostTimeReader {
    options: HostTimeOptions,
    owners: Owners,
    phc: Option<Phc>,
}

impl HostTimeReader {
    /// A reader. Make it before privileges are dropped: it opens the hardware clock's device where one is configured (and
    /// later where that fails).
    pub fn new(options: HostTimeOptions) -> Self {
        let phc = match options.choice {
            HostChoice::Only(HostSource::Phc) => options.phc.clone().map(Phc::new),
            _ => None,
        };
        HostTimeReader { options, owners: Owners::new(Path::new("/proc")), phc }
    }

    /// Where UTC lies now.
    ///
    /// # Errors
    /// Why nothing can be said, in words for operators; transient ones too, so ask again.
    pub fn read(&mut self, clock: &HostClock) -> Result<HostTime, Unusable> {
        let path = self.options.clock_bound_path.as_deref().unwrap_or(Path::new(CLOCK_BOUND_PATH));
        match self.options.choice {
            HostChoice::Nothing => Err(Unusable::Off),
            HostChoice::Only(HostSource::ClockBound) => clock_bound::read(path, clock),
            HostChoice::Auto if path.exists() => clock_bound::read(path, clock),
            HostChoice::Auto | HostChoice::Only(HostSource::Kernel) => match self.options.stated_bound {
                Some(bound) => kernel::read(clock, Some(bound)),
                None => {
                    self.owners.check(raw_ns())?;
                    kernel::read(clock, None)
                }
            },
            HostChoice::Only(HostSource::Phc) => match (&mut self.phc, self.options.stated_bound) {
                (Some(phc), Some(bound)) => phc.read(clock, bound),
                _ => Err(Unusable::PhcIncomplete),
            },
        }
    }
}
