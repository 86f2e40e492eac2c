"""Wall-clock decisions follow the clock of Redis, as far as it is known."""

from streamq.runtime.redis_clock import RedisClock
from streamq.testing.clock import VirtualClock


def test_this_machines_clock_counts_until_redis_has_spoken():
    clock = VirtualClock()
    assert RedisClock(clock).now_ms() == round(clock.time() * 1000)


def test_afterwards_the_time_of_redis_goes_on_by_itself():
    clock = VirtualClock()
    redis = RedisClock(clock)
    redis.heard(5_000_000)
    clock.advance(1.5)
    assert redis.now_ms() == 5_001_500


def test_a_step_of_this_machines_wall_clock_changes_nothing():
    clock = VirtualClock()
    redis = RedisClock(clock)
    redis.heard(5_000_000)
    clock.step(3600)
    assert redis.now_ms() == 5_000_000


def test_the_latest_time_without_a_jump():
    clock = VirtualClock()
    redis = RedisClock(clock)
    assert redis.latest_ms(2.0) == 0
    redis.heard(5_000_000)
    clock.advance(1)
    assert redis.latest_ms(2.0) == 5_003_000
