//! How many weights each layer grows when a budget is spread over layers.

/// Spreads `budget` over layers in proportion to their `shares`, no layer getting more than its `room`: what a full layer
/// cannot take goes to the others, in the same proportion. Whole numbers by the largest remainders; of equal ones the first
/// layer goes first. If all shares of layers with room are zero, they count as equal.
///
/// The whole budget is spread if there is room for it.
pub(super) fn spread(budget: usize, shares: &[f64], room: &[usize]) -> Vec<usize> {
    let mut given = vec![0; shares.len()];
    let mut open: Vec<usize> = (0..shares.len()).filter(|&layer| room[layer] > 0).collect();
    let mut left = budget.min(room.iter().sum());
    while left > 0 {
        let sum: f64 = open.iter().map(|&layer| shares[layer]).sum();
        let wanted = |layer: usize| {
            let share = if sum > 0.0 { shares[layer] / sum } else { 1.0 / open.len() as f64 };
            share * left as f64
        };
        let full: Vec<usize> = open.iter().copied().filter(|&l| wanted(l) >= (room[l] - given[l]) as f64).collect();
        if full.is_empty() {
            let mut order: Vec<(usize, f64)> = open.iter().map(|&layer| (layer, wanted(layer).fract())).collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1));
            let whole: usize = open.iter().map(|&layer| wanted(layer) as usize).sum();
            let more: Vec<usize> = order.into_iter().take(left - whole).map(|(layer, _)| layer).collect();
            let wanted: Vec<usize> = open.iter().map(|&layer| wanted(layer) as usize).collect();
            open.iter().zip(wanted).for_each(|(&layer, wanted)| given[layer] += wanted);
            more.into_iter().for_each(|layer| given[layer] += 1);
            break;
        }
        for &layer in &full {
            left -= room[layer] - given[layer];
            given[layer] = room[layer];
        }
        open.retain(|layer| !full.contains(layer));
    }
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::spread;

    #[test]
    fn by_hand() {
        assert_eq!(spread(10, &[1.0, 3.0, 1.0], &[100, 100, 100]), [2, 6, 2]);
        // Remainders of 1/3 each: the first layer gets what is left.
        assert_eq!(spread(10, &[1.0, 1.0, 1.0], &[100, 100, 100]), [4, 3, 3]);
        // The second layer takes 3 of 6, and the others share the rest.
        assert_eq!(spread(10, &[1.0, 3.0, 1.0], &[100, 3, 100]), [4, 3, 3]);
        assert_eq!(spread(10, &[0.0, 0.0], &[100, 4]), [6, 4]);
        assert_eq!(spread(10, &[1.0, 0.0], &[3, 4]), [3, 4]);
        assert_eq!(spread(0, &[1.0], &[5]), [0]);
    }

    proptest! {
        #[test]
        fn the_budget_is_spent_where_there_is_room(
            budget in 0usize..200,
            layers in prop::collection::vec((prop_oneof![Just(0.0), 1e-6f64..1e6], 0usize..60), 0..7),
        ) {
            let (shares, room): (Vec<f64>, Vec<usize>) = layers.into_iter().unzip();
            let given = spread(budget, &shares, &room);
            prop_assert_eq!(given.iter().sum::<usize>(), budget.min(room.iter().sum()));
            for (given, room) in given.iter().zip(&room) {
                prop_assert!(given <= room);
            }
        }
    }
}
