//! Counts steps, so that tests can show that the work on untrusted input is linear in its size.
//!
//! Time would not show it: on a busy machine, a quadratic loop over a small input looks like a linear one, and the other way round.

/// Adds `steps` to the count of the test that runs on this thread. Does nothing outside tests.
#[inline(always)]
pub(crate) fn count(steps: usize) {
    #[cfg(test)]
    counter::add(steps);
    #[cfg(not(test))]
    let _ = steps;
}

#[cfg(test)]
pub(crate) use counter::{assert_linear, counted};

#[cfg(test)]
mod counter {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
    }

    /// How often the size of the input is doubled.
    const DOUBLINGS: usize = 5;

    pub(super) fn add(steps: usize) {
        STEPS.with(|counted| counted.set(counted.get() + steps as u64));
    }

    /// The number of steps of `work`.
    pub(crate) fn counted(work: impl FnOnce()) -> u64 {
        STEPS.with(|counted| counted.set(0));
        work();
        STEPS.with(Cell::take)
    }

    /// Fails if the steps of `work` grow faster than the size of its input. Each time the size doubles, starting with `size`, the steps may
    /// at most double, with a tolerance of 5 % for hash tables and buffers that grow. `input` creates an input of the given size.
    #[track_caller]
    pub(crate) fn assert_linear<I>(size: usize, input: impl Fn(usize) -> I, work: impl Fn(I)) {
        let steps = |size| {
            let input = input(size);
            counted(|| work(input))
        };
        let all: Vec<u64> = (0..=DOUBLINGS).map(|doubling| steps(size << doubling)).collect();
        assert!(all[0] > 0, "nothing was counted");
        for pair in all.windows(2) {
            assert!(
                pair[1] * 10 <= pair[0] * 21,
                "the steps grow faster than the size, which doubles from {size} on: {all:?}"
            );
        }
    }

    #[test]
    fn linear_work_passes_and_quadratic_work_fails() {
        assert_linear(8, |size| size, add);
        let quadratic = || assert_linear(8, |size| size, |size| add(size * size));
        assert!(std::panic::catch_unwind(quadratic).is_err());
        let nothing = || assert_linear(8, |size| size, drop);
        assert!(std::panic::catch_unwind(nothing).is_err());
    }
}
