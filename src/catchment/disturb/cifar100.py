"""CIFAR-100's 20 superclasses of five fine classes each."""

SUPERCLASSES: dict[str, tuple[int, int, int, int, int]] = {
    # As the coarse labels of the released files have them, in the order of their numbers 0 to 19. Fine classes are
    # numbered alphabetically, so each row is alphabetical too.
    "aquatic_mammals": (4, 30, 55, 72, 95),  # beaver, dolphin, otter, seal, whale
    "fish": (1, 32, 67, 73, 91),  # aquarium_fish, flatfish, ray, shark, trout
    "flowers": (54, 62, 70, 82, 92),  # orchid, poppy, rose, sunflower, tulip
    "food_containers": (9, 10, 16, 28, 61),  # bottle, bowl, can, cup, plate
    "fruit_and_vegetables": (0, 51, 53, 57, 83),  # apple, mushroom, orange, pear, sweet_pepper
    "household_electrical_devices": (22, 39, 40, 86, 87),  # clock, keyboard, lamp, telephone, television
    "household_furniture": (5, 20, 25, 84, 94),  # bed, chair, couch, table, wardrobe
    "insects": (6, 7, 14, 18, 24),  # bee, beetle, butterfly, caterpillar, cockroach
    "large_carnivores": (3, 42, 43, 88, 97),  # bear, leopard, lion, tiger, wolf
    "large_man-made_outdoor_things": (12, 17, 37, 68, 76),  # bridge, castle, house, road, skyscraper
    "large_natural_outdoor_scenes": (23, 33, 49, 60, 71),  # cloud, forest, mountain, plain, sea
    "large_omnivores_and_herbivores": (15, 19, 21, 31, 38),  # camel, cattle, chimpanzee, elephant, kangaroo
    "medium_mammals": (34, 63, 64, 66, 75),  # fox, porcupine, possum, raccoon, skunk
    "non-insect_invertebrates": (26, 45, 77, 79, 99),  # crab, lobster, snail, spider, worm
    "people": (2, 11, 35, 46, 98),  # baby, boy, girl, man, woman
    "reptiles": (27, 29, 44, 78, 93),  # crocodile, dinosaur, lizard, snake, turtle
    "small_mammals": (36, 50, 65, 74, 80),  # hamster, mouse, rabbit, shrew, squirrel
    "trees": (47, 52, 56, 59, 96),  # maple_tree, oak_tree, palm_tree, pine_tree, willow_tree
    "vehicles_1": (8, 13, 48, 58, 90),  # bicycle, bus, motorcycle, pickup_truck, train
    "vehicles_2": (41, 69, 81, 85, 89),  # lawn_mower, rocket, streetcar, tank, tractor
}
