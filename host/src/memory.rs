//! Whether this machine has memory to spare.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// What has to be left for a machine not to be short of memory, in bytes: less makes Linux drop its caches and others swap.
const AVAILABLE_MIN: u64 = 512 << 20;
/// And as a part of all that it has: a twentieth.
const AVAILABLE_MIN_PART: u64 = 20;

/// Whether what is available has fallen below 512 MiB or a twentieth of all, whichever is more. A machine that can't tell
/// isn't short.
#[must_use]
pub fn is_short() -> bool {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(memory) else {
        return false;
    };
    let (available, total) = (system.available_memory(), system.total_memory());
    total > 0 && too_little(available, total)
}

fn too_little(available: u64, total: u64) -> bool {
    // On a small machine half of it may be all that others leave.
    let min = AVAILABLE_MIN.max(total / AVAILABLE_MIN_PART).min(total / 2);
    available < min
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_machine_keeps_a_twentieth_and_a_small_one_half_a_gibibyte() {
        const GIB: u64 = 1 << 30;
        for (available, total, short) in [
            (4 * GIB, 64 * GIB, false),
            (3 * GIB, 64 * GIB, true),
            (GIB, 8 * GIB, false),
            (GIB / 3, 8 * GIB, true),
            (GIB / 3, GIB / 2, false),
            (0, GIB / 2, true),
        ] {
            assert_eq!(too_little(available, total), short, "{available} of {total}");
        }
    }
}
