//! The clock-bound daemon: chrony's or its own clock, with a bound that it keeps up to date in shared memory.
//!
//! The segment is opened for each reading, once a second: a daemon that was restarted may have made a new one, and a
//! mapping of the old one would only ever grow older.

use super::{HostSource, HostTime, Unusable};
use crate::host_clock::{HostClock, raw_ns};
use clock_bound_client::{ClockBoundClient, ClockBoundError, ClockStatus};
use startgun_core::time::Span;
use std::path::Path;

/// Tries for a reading: the daemon may just be writing, for some nanoseconds, or the thread may lose the processor.
const TRIES: usize = 3;

/// What the daemon said, between two raw readings.
#[derive(Clone, Copy, Debug)]
struct Said {
    before_raw_ns: i64,
    earliest_ns: i64,
    latest_ns: i64,
    after_raw_ns: i64,
}

pub(super) fn read(path: &Path, clock: &HostClock) -> Result<HostTime, Unusable> {
    let unusable = |reason: String| Unusable::ClockBound { path: path.to_owned(), reason };
    let name = path.to_str().ok_or_else(|| unusable("its path is not UTF-8".into()))?;
    let mut asked = (0..TRIES).map(|_| ask(name)).collect::<Vec<_>>();
    asked.sort_by_key(|said| said.as_ref().map_or(i64::MAX, |said| said.after_raw_ns - said.before_raw_ns));
    let said = asked.swap_remove(0).map_err(unusable)?;
    // Anywhere between the two readings: the middle is off by at most half of their distance.
    let half_width = (said.after_raw_ns - said.before_raw_ns) / 2 + 1;
    let at = clock.from_raw(said.before_raw_ns + half_width);
    let middle = said.earliest_ns + (said.latest_ns - said.earliest_ns) / 2;
    let bound = Span::from_nanos((said.latest_ns - said.earliest_ns) / 2 + 1 + half_width);
    let utc_minus_local = Span::from_nanos(middle) + clock.realtime_offset() - Span::from_nanos(at.as_nanos());
    Ok(HostTime { at, utc_minus_local, bound, expected_error: bound, source: HostSource::ClockBound, stated: false })
}

fn ask(path: &str) -> Result<Said, String> {
    let mut client = ClockBoundClient::new_with_path(path).map_err(|error| words(&error))?;
    let before_raw_ns = raw_ns();
    let now = client.now().map_err(|error| words(&error))?;
    let after_raw_ns = raw_ns();
    match now.clock_status {
        // Free running: the daemon has lost its sources, and its bound grows as it should.
        ClockStatus::Synchronized | ClockStatus::FreeRunning => {}
        ClockStatus::Unknown => return Err("the daemon does not know its clock's state, or has stopped".into()),
        ClockStatus::Disrupted => return Err("the virtual machine's clock was disrupted".into()),
    }
    let earliest_ns = now.earliest.tv_sec().saturating_mul(1_000_000_000).saturating_add(now.earliest.tv_nsec());
    let latest_ns = now.latest.tv_sec().saturating_mul(1_000_000_000).saturating_add(now.latest.tv_nsec());
    if latest_ns <= earliest_ns {
        return Err("it claims to have no error at all".into());
    }
    Ok(Said { before_raw_ns, earliest_ns, latest_ns, after_raw_ns })
}

fn words(error: &ClockBoundError) -> String {
    match (error.errno.0, error.detail.as_str()) {
        (0, "") => format!("{:?}", error.kind),
        (0, detail) => format!("{:?}: {detail}", error.kind),
        (_, detail) => format!("{:?}: {detail}: {}", error.kind, error.errno),
    }
}
