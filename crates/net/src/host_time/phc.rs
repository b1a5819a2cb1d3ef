//! A hardware clock (PHC): a network card's, kept by ptp4l, or the hypervisor's.
//!
//! What it shows is read between two readings of the host's clock, in the best way that its driver knows: both clocks
//! latched at once, several sandwiches around the register itself, or sandwiches around the whole call. It counts TAI by
//! convention and UTC by habit, and nothing says how well it is kept: scale and bound are the operator's word.

use super::{HostSource, HostTime, PhcOptions, Unusable};
use crate::check;
use crate::host_clock::HostClock;
use startgun_core::time::{LocalTime, Span};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Sandwiches per reading, of which the narrowest counts: a register is read in 1 to 10 µs.
const SAMPLES: usize = 5;
/// A sandwich wider than this is none: 1 ms is a hundred times what a register takes.
const WIDTH_MAX: Span = Span::from_millis(1);

/// A hardware clock's device.
#[derive(Debug)]
pub(super) struct Phc {
    options: PhcOptions,
    /// Opened with the privileges of the start, if that went well.
    device: Option<File>,
}

/// What the hardware clock showed when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crossing {
    pub at: LocalTime,
    /// It was shown no further away than this.
    pub half_width: Span,
    pub phc_ns: i64,
}

impl Crossing {
    /// From a reading between two instants that are uncertain themselves.
    pub(super) fn between(before: LocalTime, after: LocalTime, uncertainty: Span, phc_ns: i64) -> Option<Crossing> {
        let width = after - before;
        if width < Span::ZERO || width > WIDTH_MAX {
            return None;
        }
        let half_width = width.half() + Span::from_nanos(1) + uncertainty;
        Some(Crossing { at: before + width.half(), half_width, phc_ns })
    }

    /// UTC, as far as the operator is right.
    pub(super) fn utc(&self, minus_utc: Span, stated_bound: Span) -> HostTime {
        let bound = stated_bound + self.half_width;
        HostTime {
            at: self.at,
            utc_minus_local: Span::from_nanos(self.phc_ns) - minus_utc - Span::from_nanos(self.at.as_nanos()),
            bound,
            expected_error: bound,
            source: HostSource::Phc,
            stated: true,
        }
    }
}

impl Phc {
    /// Opens the device; where that fails, each reading tries again.
    pub fn new(options: PhcOptions) -> Self {
        let device = open(&options.device).ok();
        Phc { options, device }
    }

    pub fn read(&mut self, clock: &HostClock, stated_bound: Span) -> Result<HostTime, Unusable> {
        let unusable =
            |error: io::Error| Unusable::Phc { device: self.options.device.clone(), reason: error.to_string() };
        let device = match &mut self.device {
            Some(device) => device,
            none => none.insert(open(&self.options.device).map_err(unusable)?),
        };
        let crossing = cross(device, clock).map_err(unusable)?;
        Ok(crossing.utc(self.options.minus_utc, stated_bound))
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// The best reading that the driver offers.
fn cross(device: &File, clock: &HostClock) -> io::Result<Crossing> {
    let ways = [precise, extended_raw, extended_realtime, basic];
    for way in ways {
        match way(device, clock) {
            Ok(Some(crossing)) => return Ok(crossing),
            Ok(None) => {}
            // What a driver or a kernel says that knows no such call.
            Err(error)
                if [Some(libc::EOPNOTSUPP), Some(libc::ENOTTY), Some(libc::EINVAL)].contains(&error.raw_os_error()) => {
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("it cannot be read next to the host's clock within a millisecond; is it a PTP clock?"))
}

fn nanos(time: &libc::ptp_clock_time) -> i64 {
    time.sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nsec))
}

fn precise(device: &File, clock: &HostClock) -> io::Result<Option<Crossing>> {
    // SAFETY: the structure is plain numbers, for which zero is a valid value.
    let mut offset: libc::ptp_sys_offset_precise = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one such structure, and `offset` is valid for that.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::PTP_SYS_OFFSET_PRECISE, &raw mut offset) })?;
    let at = clock.from_raw(nanos(&offset.sys_monoraw));
    Ok(Crossing::between(at, at, Span::ZERO, nanos(&offset.device)))
}

/// Since Linux 6.12 the host's readings can be those of the raw clock.
fn extended_raw(device: &File, clock: &HostClock) -> io::Result<Option<Crossing>> {
    let samples = extended(device, libc::CLOCK_MONOTONIC_RAW)?;
    let crossing = |[before, phc, after]: [i64; 3]| {
        Crossing::between(clock.from_raw(before), clock.from_raw(after), Span::ZERO, phc)
    };
    Ok(samples.into_iter().filter_map(crossing).min_by_key(|crossing| crossing.half_width))
}

fn extended_realtime(device: &File, clock: &HostClock) -> io::Result<Option<Crossing>> {
    Ok(narrowest(extended(device, libc::CLOCK_REALTIME)?.into_iter(), clock))
}

fn extended(device: &File, host_clock: libc::clockid_t) -> io::Result<[[i64; 3]; SAMPLES]> {
    // SAFETY: the structure is plain numbers, for which zero is a valid value.
    let mut offset: libc::ptp_sys_offset_extended = unsafe { std::mem::zeroed() };
    offset.n_samples = SAMPLES as libc::c_uint;
    offset.clockid = host_clock;
    // SAFETY: the call reads and writes one such structure, and `offset` is valid for that.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::PTP_SYS_OFFSET_EXTENDED, &raw mut offset) })?;
    Ok(std::array::from_fn(|sample| offset.ts[sample].each_ref().map(nanos)))
}

fn basic(device: &File, clock: &HostClock) -> io::Result<Option<Crossing>> {
    // SAFETY: the structure is plain numbers, for which zero is a valid value.
    let mut offset: libc::ptp_sys_offset = unsafe { std::mem::zeroed() };
    offset.n_samples = SAMPLES as libc::c_uint;
    // SAFETY: the call reads and writes one such structure, and `offset` is valid for that.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::PTP_SYS_OFFSET, &raw mut offset) })?;
    // Host, PHC, host, PHC, …, host.
    let samples = (0..SAMPLES).map(|sample| [0, 1, 2].map(|part| nanos(&offset.ts[2 * sample + part])));
    Ok(narrowest(samples, clock))
}

/// The narrowest of sandwiches whose host readings are `CLOCK_REALTIME`, which packet timestamps are too.
fn narrowest(samples: impl Iterator<Item = [i64; 3]>, clock: &HostClock) -> Option<Crossing> {
    let crossing = |[before, phc, after]: [i64; 3]| {
        let (before, after) = (clock.stamped(before)?, clock.stamped(after)?);
        Crossing::between(before.at, after.at, before.uncertainty.max(after.uncertainty), phc)
    };
    samples.filter_map(crossing).min_by_key(|crossing| crossing.half_width)
}
