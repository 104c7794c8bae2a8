//! Quotas by a clock that only the test moves.

use governor::clock::FakeRelativeClock;
use proptest::prelude::*;

use super::*;

fn quota(events: u32, events_burst: u32, bytes: u64, bytes_burst: u64) -> TenantQuota {
    TenantQuota { events_per_second: events, events_burst, bytes_per_second: bytes, bytes_burst }
}

fn quotas(default: TenantQuota, tenants_max: usize) -> (Quotas<FakeRelativeClock>, FakeRelativeClock) {
    let clock = FakeRelativeClock::default();
    let tenants = [("big".to_owned(), quota(1_000, 1_000, 0, 0))].into();
    let config = QuotaConfig { default, tenants, tenants_max };
    (Quotas::with_clock(&config, clock.clone()).unwrap(), clock)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn later(measure: Measure, per_second: u64, wait: Duration) -> Result<(), OverQuota> {
    Err(OverQuota::Later { measure, per_second, wait })
}

#[test]
fn a_batch_is_charged_its_events_and_admitted_exactly_after_the_wait() {
    let (quotas, clock) = quotas(quota(10, 20, 0, 0), 10);
    assert_eq!(quotas.admit("a", 15, 0), Ok(()));
    assert_eq!(quotas.admit("a", 8, 0), later(Measure::Events, 10, ms(300)), "5 left, 3 more at 10/s");
    clock.advance(Duration::from_nanos(299_999_999));
    assert_eq!(quotas.admit("a", 8, 0), later(Measure::Events, 10, Duration::from_nanos(1)));
    clock.advance(Duration::from_nanos(1));
    assert_eq!(quotas.admit("a", 8, 0), Ok(()));
    assert_eq!(quotas.admit("a", 1, 0), later(Measure::Events, 10, ms(100)));
}

#[test]
fn a_batch_beyond_the_burst_is_refused_for_good() {
    let (quotas, _) = quotas(quota(10, 20, 1024, 4096), 10);
    let events = quotas.admit("a", 21, 0).unwrap_err();
    assert_eq!(events, OverQuota::TooLarge { measure: Measure::Events, asked: 21, burst: 20 });
    assert_eq!((events.status(), events.retry_after_s()), (413, None));
    assert_eq!(
        events.to_string(),
        "the request has 21 events, and the tenant may send at most 20 at once: send smaller batches"
    );
    let bytes = quotas.admit("a", 1, 4097).unwrap_err();
    assert_eq!(bytes, OverQuota::TooLarge { measure: Measure::Bytes, asked: 4097, burst: 4096 });
    let huge = quotas.admit("a", u64::MAX, u64::MAX).unwrap_err();
    assert_eq!(huge.status(), 413);
    assert_eq!(quotas.admit("a", 20, 4096), Ok(()), "nothing was charged by the refusals");
}

#[test]
fn a_request_refused_for_its_bytes_costs_no_events() {
    let (quotas, clock) = quotas(quota(10, 20, 1024, 4096), 10);
    assert_eq!(quotas.admit("a", 1, 4096), Ok(()));
    for _ in 0..100 {
        assert_eq!(quotas.admit("a", 10, 1024), later(Measure::Bytes, 1024, ms(1_000)));
    }
    assert_eq!(quotas.admit("a", 19, 0), Ok(()));
    clock.advance(ms(1_000));
    assert_eq!(quotas.admit("a", 10, 1024), Ok(()));
}

#[test]
fn retry_after_is_whole_seconds_rounded_up() {
    let check = |wait: Duration, expected| {
        let over = OverQuota::Later { measure: Measure::Events, per_second: 1, wait };
        assert_eq!((over.retry_after_s(), over.status()), (Some(expected), 429), "{wait:?}");
    };
    check(Duration::from_nanos(1), 1);
    check(ms(1_000), 1);
    check(ms(1_001), 2);
    check(Duration::ZERO, 1);
}

#[test]
fn tenants_do_not_pay_for_each_other_and_have_quotas_of_their_own() {
    let (quotas, _) = quotas(quota(10, 10, 0, 0), 10);
    assert_eq!(quotas.admit("a", 10, 0), Ok(()));
    assert_eq!(quotas.admit("b", 10, 0), Ok(()));
    assert_eq!(quotas.admit("big", 1_000, u64::MAX), Ok(()), "no limit on bytes");
    assert_eq!(quotas.admit("a", 1, 0).unwrap_err().status(), 429);
}

#[test]
fn tenants_beyond_the_bound_share_one_quota_and_idle_ones_are_forgotten() {
    let (quotas, clock) = quotas(quota(10, 10, 0, 0), 2);
    for tenant in ["a", "b"] {
        assert_eq!(quotas.admit(tenant, 10, 0), Ok(()));
    }
    assert_eq!(quotas.admit("c", 10, 0), Ok(()), "the shared quota");
    for n in 0..1_000 {
        assert_eq!(
            quotas.admit(&format!("made-up-{n}"), 1, 0).unwrap_err().status(),
            429,
            "no fresh burst by new names"
        );
    }
    assert_eq!(quotas.tracked(), 2);
    clock.advance(ms(1_000));
    assert_eq!(quotas.admit("c", 10, 0), Ok(()));
    assert_eq!(quotas.tracked(), 1, "a and b were as good as new");
}

#[test]
fn a_quota_that_admits_nothing_is_refused() {
    let check = |quota: TenantQuota, expected: Option<&str>| {
        let config = QuotaConfig { default: quota, ..QuotaConfig::default() };
        let error = Quotas::new(&config).err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), expected);
    };
    check(TenantQuota::default(), None);
    check(quota(0, 0, 0, 0), None);
    check(
        quota(1, 0, 0, 0),
        Some("quota of default: events_burst is 0: nothing would ever be admitted; set at least 1"),
    );
    check(
        quota(0, 0, 1, 0),
        Some("quota of default: bytes_burst is 0: nothing would ever be admitted; set at least 1"),
    );
    check(
        quota(0, 0, 1 << 43, 1),
        Some("quota of default: bytes_per_second is 8796093022208: set at most 4 TiB, or a rate of 0 for no limit"),
    );
}

#[test]
fn unknown_settings_are_refused() {
    let known = r#"{"default":{"events_per_second":5,"events_burst":5},"tenants":{"a":{"bytes_per_second":0}}}"#;
    assert!(serde_json::from_str::<QuotaConfig>(known).is_ok());
    assert!(serde_json::from_str::<QuotaConfig>(r#"{"default":{"event_per_second":5}}"#).is_err());
}

proptest! {
    /// In any window the admitted events are at most burst + rate * time.
    #[test]
    fn never_more_than_burst_and_rate(
        rate in 1_u32..1_000, burst in 1_u32..1_000, steps in prop::collection::vec((0_u64..50, 1_u64..200), 1..200),
    ) {
        let (quotas, clock) = quotas(quota(rate, burst, 0, 0), 10);
        let (mut elapsed, mut admitted) = (Duration::ZERO, 0);
        for (wait_ms, events) in steps {
            clock.advance(ms(wait_ms));
            elapsed += ms(wait_ms);
            if quotas.admit("a", events, 0).is_ok() {
                admitted += events;
            }
            // A cell takes 1e9 / rate ns, rounded down: at a rate of 999 that is 1e-6 faster.
            let most = f64::from(burst) + f64::from(rate) * elapsed.as_secs_f64() * 1.000_01;
            prop_assert!(admitted as f64 <= most, "{admitted} > {most}");
        }
    }

    /// A refused request is admitted after the wait that it was given and not a nanosecond before.
    #[test]
    fn the_wait_is_exact(rate in 1_u32..5_000, burst in 1_u32..1_000, first in 1_u64..1_000, second in 1_u64..1_000) {
        let (quotas, clock) = quotas(quota(rate, burst, 0, 0), 10);
        let _ = quotas.admit("a", first, 0);
        if let Err(OverQuota::Later { wait, .. }) = quotas.admit("a", second, 0) {
            clock.advance(wait - Duration::from_nanos(1));
            prop_assert!(quotas.admit("a", second, 0).is_err());
            clock.advance(Duration::from_nanos(1));
            prop_assert!(quotas.admit("a", second, 0).is_ok());
        }
    }
}
