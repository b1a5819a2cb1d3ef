//! UTC from each source: this machine's own, whatever it is, and made-up ones.

use super::kernel::Kernel;
use super::phc::Crossing;
use super::*;
use crate::host_clock::{Distortion, Sandwich, monotonic_ns, read};
use std::fs;

fn reader(choice: HostChoice, stated_bound: Option<Span>) -> HostTimeReader {
    HostTimeReader::new(HostTimeOptions { choice, stated_bound, ..HostTimeOptions::default() })
}

/// UTC by `CLOCK_REALTIME`, at a local time just past.
fn utc_error(time: &HostTime, clock: &HostClock) -> Span {
    let expected = read(libc::CLOCK_REALTIME);
    Span::from_nanos(clock.now().as_nanos()) + time.utc_minus_local - Span::from_nanos(expected)
}

/// The reader moves to the thread that asks.
const _: fn() = || {
    fn moves<T: Send>() {}
    moves::<HostTimeReader>();
    moves::<HostClock>();
};

#[test]
fn this_machines_kernel_gives_a_time_or_a_reason() {
    let clock = HostClock::new(None);
    for choice in [HostChoice::Auto, HostChoice::Only(HostSource::Kernel)] {
        match reader(choice, None).read(&clock) {
            Ok(time) => {
                assert!(time.bound > Span::ZERO && time.bound < Span::from_secs(20), "{time:?}");
                assert!(time.expected_error <= time.bound && !time.stated, "{time:?}");
            }
            Err(reason) => assert!(reason.to_string().len() > 20, "{reason:?}"),
        }
    }
    let found = reader(HostChoice::Nothing, Some(Span::from_millis(1))).read(&clock);
    assert_eq!(found, Err(Unusable::Off));
}

#[test]
fn a_stated_bound_makes_the_kernels_clock_usable_on_that_condition() {
    let stated = Span::from_millis(2);
    for realtime_offset in [Span::ZERO, Span::from_millis(-700)] {
        let distortion =
            Distortion { offset: Span::from_secs(9), drift_ppb: 40_000, realtime_offset, ..Distortion::default() };
        let clock = HostClock::new(Some(distortion));
        let time =
            reader(HostChoice::Only(HostSource::Kernel), Some(stated)).read(&clock).expect("no leap second today");
        assert!(time.stated && time.source == HostSource::Kernel);
        assert!(time.bound > stated && time.bound < stated + Span::from_millis(1), "{time:?}");
        // The false clock drifts by 40 ppm between the two readings, which a loaded machine may draw out.
        let error = utc_error(&time, &clock) - realtime_offset;
        assert!(error.abs() < Span::from_millis(1), "{error:?}");
    }
}

fn kernel(greatest_us: i64, estimated_us: i64, offset: i64, status: libc::c_int, state: libc::c_int) -> Kernel {
    // SAFETY: an all-zero timex is a valid value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    (timex.maxerror, timex.esterror, timex.offset, timex.status) = (greatest_us, estimated_us, offset, status);
    Kernel::of(state, &timex)
}

#[test]
fn the_kernels_figures_add_up_to_a_bound() {
    let micros = |bound, expected| Ok((Span::from_micros(bound), Span::from_micros(expected)));
    assert_eq!(kernel(1_200, 50, 0, 0, 0).errors(), micros(1_216, 51));
    // What is still slewed in, in either direction and unit.
    assert_eq!(kernel(1_200, 50, -300, 0, 0).errors(), micros(1_516, 351));
    assert_eq!(kernel(1_200, 50, 300_000, libc::STA_NANO, 0).errors(), micros(1_516, 351));
    // An estimate beyond the bound is cut to it, one below zero is none.
    assert_eq!(kernel(10, 900, 0, 0, 0).errors(), micros(26, 26));
    assert_eq!(kernel(10, -900, 0, 0, 0).errors(), micros(26, 1));
    assert_eq!(kernel(0, 0, 0, 0, 0).errors(), Err(Unusable::NoError));
    assert_eq!(kernel(-5, 0, 0, 0, 0).errors(), Err(Unusable::NoError));
    assert_eq!(kernel(1_200, 50, 0, libc::STA_UNSYNC, 0).errors(), Err(Unusable::Unsynchronised));
    assert_eq!(kernel(1_200, 50, 0, 0, 5).errors(), Err(Unusable::Unsynchronised));
}

#[test]
fn the_worse_of_two_answers_counts_and_leap_seconds_are_left_out() {
    let clock = HostClock::new(None);
    let realtime_ns = 1_750_000_000_000_000_000;
    let sandwich = Sandwich { raw_ns: 5_000, half_width_ns: 40, realtime_ns, set_ns: realtime_ns };
    let good = kernel(1_000, 10, 0, 0, 0);
    let judged = kernel::judge([good, kernel(900, 20, 0, 0, 0)], sandwich, &clock, None).expect("usable");
    assert_eq!((judged.bound.as_nanos(), judged.expected_error.as_nanos()), (1_016_040, 21_040));
    assert_eq!((judged.at.as_nanos(), judged.utc_minus_local.as_nanos()), (5_000, realtime_ns - 5_000));
    let bad = kernel(1_000, 10, 0, libc::STA_UNSYNC, 0);
    assert_eq!(kernel::judge([good, bad], sandwich, &clock, None), Err(Unusable::Unsynchronised));
    let stated = kernel::judge([bad, bad], sandwich, &clock, Some(Span::from_micros(7))).expect("the operator's word");
    assert_eq!((stated.bound.as_nanos(), stated.stated), (7_040, true));

    // 2016-12-31T23:59:55Z, a second after midnight, noon.
    let [evening, morning, noon] = [1_483_228_795, 1_483_228_801, 1_483_272_000].map(|second| second * 1_000_000_000);
    let leaping = |state, at| kernel(1_000, 10, 0, 0, state).is_leaping(at);
    assert_eq!([1, 2, 3, 4, 0].map(|state| leaping(state, evening)), [true, true, true, false, false]);
    assert_eq!([1, 2, 3, 4, 0].map(|state| leaping(state, morning)), [false, false, true, true, false]);
    assert_eq!([1, 2, 3, 4, 0].map(|state| leaping(state, noon)), [false, false, true, false, false]);
    let leap = kernel(1_000, 10, 0, 0, 3);
    let stated = Some(Span::from_micros(7));
    assert_eq!(kernel::judge([good, leap], sandwich, &clock, stated), Err(Unusable::LeapSecond));
}

#[test]
fn a_hardware_clock_is_read_on_its_own_scale() {
    let local = LocalTime::from_nanos;
    let narrow = Crossing::between(local(1_000), local(3_001), Span::from_nanos(50), 37_000_009_000).expect("narrow");
    assert_eq!(narrow, Crossing { at: local(2_000), half_width: Span::from_nanos(1_051), phc_ns: 37_000_009_000 });
    let time = narrow.utc(Span::from_secs(37), Span::from_micros(5));
    assert_eq!((time.at, time.utc_minus_local.as_nanos()), (local(2_000), 7_000));
    assert_eq!((time.bound.as_nanos(), time.expected_error, time.stated), (6_051, time.bound, true));
    assert_eq!(Crossing::between(local(5), local(4), Span::ZERO, 0), None);
    assert_eq!(Crossing::between(local(0), local(1_000_001), Span::ZERO, 0), None);
}

#[test]
fn a_hardware_clock_that_is_none_is_named() {
    let clock = HostClock::new(None);
    let said = |device: &str, bound| {
        let phc = Some(PhcOptions { device: device.into(), minus_utc: Span::from_secs(37) });
        let choice = HostChoice::Only(HostSource::Phc);
        let options = HostTimeOptions { choice, stated_bound: bound, phc, ..HostTimeOptions::default() };
        HostTimeReader::new(options).read(&clock).expect_err("no clock").to_string()
    };
    let bound = Some(Span::from_micros(1));
    assert_eq!(
        said("/dev/no-such-clock", bound),
        "hardware clock /dev/no-such-clock: No such file or directory (os error 2)"
    );
    assert_eq!(
        said("/dev/null", bound),
        "hardware clock /dev/null: it cannot be read next to the host's clock within a millisecond; is it a PTP clock?"
    );
    assert!(said("/dev/null", None).contains("needs its device"));
    assert_eq!(reader(HostChoice::Only(HostSource::Phc), bound).read(&clock), Err(Unusable::PhcIncomplete));
}

/// The daemon's segment as its client documents it (version 2): header, then times on CLOCK_MONOTONIC, bound, disruption
/// marker, drift, status, whether disruptions are supported.
fn segment(as_of_ns: i64, valid_ns: i64, bound_ns: i64, drift_ppb: u32, status: u32, disruptions: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    [0x414D_5A4E_u32, 0x4342_0200, 80].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    [2_u16, 4].iter().for_each(|half| bytes.extend(half.to_ne_bytes()));
    for time in [as_of_ns, as_of_ns + valid_ns] {
        bytes.extend((time / 1_000_000_000).to_ne_bytes());
        bytes.extend((time % 1_000_000_000).to_ne_bytes());
    }
    bytes.extend(bound_ns.to_ne_bytes());
    bytes.extend(0_u64.to_ne_bytes());
    bytes.extend(drift_ppb.to_ne_bytes());
    bytes.extend(status.to_ne_bytes());
    bytes.extend([u8::from(disruptions), 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes.len(), 80);
    bytes
}

#[test]
fn the_clock_bound_daemon_is_asked_where_it_is() {
    let realtime_offset = Span::from_millis(30);
    let clock = HostClock::new(Some(Distortion { realtime_offset, ..Distortion::default() }));
    let path = std::env::temp_dir().join(format!("startgun-clock-bound-{}", std::process::id()));
    let options =
        |choice| HostTimeOptions { choice, clock_bound_path: Some(path.clone()), ..HostTimeOptions::default() };
    let _ = fs::remove_file(&path);
    let mut only = HostTimeReader::new(options(HostChoice::Only(HostSource::ClockBound)));
    let mut auto = HostTimeReader::new(options(HostChoice::Auto));
    assert!(matches!(only.read(&clock), Err(Unusable::ClockBound { .. })), "no daemon");
    assert!(!matches!(auto.read(&clock), Err(Unusable::ClockBound { .. })), "passed over where it is not");

    const S: i64 = 1_000_000_000;
    // The client reads the monotonic clock coarsely: up to 10 ms ago.
    let (bound_ns, now) = (1_500_000, monotonic_ns() - S / 20);
    for status in [1, 2] {
        // 2 s ago, at 50 ppm: 100 µs more.
        fs::write(&path, segment(now - 2 * S, 1_000 * S, bound_ns, 50_000, status, false)).expect("written");
        for reader in [&mut only, &mut auto] {
            let time = reader.read(&clock).expect("a time");
            assert_eq!((time.source, time.stated), (HostSource::ClockBound, false));
            let grown = time.bound.as_nanos() - bound_ns;
            assert!((100_000..400_000).contains(&grown), "{grown}");
            let error = utc_error(&time, &clock) - realtime_offset;
            assert!(error.abs() < Span::from_micros(500), "{error:?}");
        }
    }
    let broken: [(Vec<u8>, &str); 6] = [
        (segment(now, 1_000 * S, bound_ns, 50_000, 0, false), "does not know its clock's state"),
        (segment(now, 1_000 * S, bound_ns, 50_000, 3, false), "disrupted"),
        (segment(now - 100 * S, S, bound_ns, 50_000, 1, false), "has stopped"),
        (segment(now, 1_000 * S, 0, 0, 1, false), "no error at all"),
        (segment(now, 1_000 * S, bound_ns, 50_000, 1, false)[..8].to_vec(), "SegmentNotInitialized"),
        (vec![0; 80], "SegmentNotInitialized"),
    ];
    for (bytes, expected) in broken {
        fs::write(&path, &bytes).expect("written");
        let reason = only.read(&clock).expect_err("unusable").to_string();
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(auto.read(&clock).expect_err("not passed over").to_string(), reason);
    }
    fs::remove_file(&path).expect("removed");
}
