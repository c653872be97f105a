//! Counts of steps, with which tests show that work on what a stranger sent is linear in its size. Time would not show it: on a busy
//! machine a quadratic loop over a small input looks like a linear one, and the other way round.

/// Counts `steps` in the test that runs on this thread. Outside tests it is nothing.
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

    /// How often sizes are doubled.
    const DOUBLINGS: usize = 5;

    pub(super) fn add(steps: usize) {
        STEPS.with(|counted| counted.set(counted.get() + steps as u64));
    }

    /// How many steps `work` takes.
    pub(crate) fn counted(work: impl FnOnce()) -> u64 {
        STEPS.with(|counted| counted.set(0));
        work();
        STEPS.with(Cell::take)
    }

    /// Fails unless the steps of `work` grow no faster than the size of its input: each time that the size, first `size`, doubles, they
    /// double at most, with a tenth for what hash tables and buffers do when they grow. `input` makes the input of a size.
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
                "steps for doubling sizes from {size} on: {all:?}"
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
