"""Things people say: written sentences and a small grammar, split by a stable hash of the sentence.

All of it was written for this project. It is rich in sounds that show on the lips (p b m, f v, w, rounded vowels)
and in what assistants, callers and friends say: greetings, questions, numbers, short answers, small stories.
"""

from __future__ import annotations

import hashlib

import numpy as np

BACKCHANNELS: tuple[str, ...] = (
    "Mm.",
    "Mhm.",
    "Mm hm.",
    "Uh huh.",
    "Yeah.",
    "Okay.",
    "Right.",
    "I see.",
    "Sure.",
    "Oh.",
)
"""What a listener puts in; said by the voices of both splits."""

TEST_SHARE = 0.1

SENTENCES: tuple[str, ...] = (
    "Hello, and welcome back.", "Good morning, how did you sleep?", "Hi there, it is nice to meet you.",
    "Good evening, everybody.", "Thank you so much for calling.", "How may I help you today?",
    "Could you please tell me your name?", "Let me check that for you.", "One moment, please.",
    "I am happy to help with that.", "Of course, no problem at all.", "I am sorry to hear that.",
    "That sounds wonderful.", "Are you sure about that?", "I did not quite catch the last part.",
    "Would you mind saying that again?", "Perfect, we are all set.", "Is there anything else you need?",
    "Have a lovely afternoon.", "Goodbye for now.", "See you on Monday.", "Yes, absolutely.", "No, not yet.",
    "Maybe later.", "Oh, I see what you mean.", "Well, that depends.", "Hmm, let me think about it.",
    "What a beautiful surprise!", "You must be joking!", "Why would anybody do that?", "Where did you put my keys?",
    "When does the next train leave?", "Who brought the flowers?", "Which of these two do you prefer?",
    "How far is it to the harbour?", "Do you believe in luck?", "Can we move the meeting to Thursday?",
    "Please remember to bring an umbrella.", "The bakery opens at half past six.",
    "My brother plays the trumpet, badly but bravely.", "Bob's boat bobbed by the bay for a week.",
    "Mum made more marmalade than we could ever eat.", "Pepper and paprika improve the pumpkin soup.",
    "The puppy bumped the lamp and broke it.", "A big brown bear climbed up the beech tree.",
    "Very few voters favoured the first version.", "Five of the visitors have left the village.",
    "Fresh coffee fills the office every day at five.", "I have never driven over such a rough river ford.",
    "We would walk west while the weather was warm.", "Water always wins, whatever you build.",
    "Who knew the moon could look so blue?", "Choose a pair of shoes that suits you.",
    "You used to move to the music in your room.", "The school pool is too cool in June.",
    "Four more storms rolled over the northern shore.", "Go slowly over the old stone road.",
    "Joe wrote a note and put it in his coat.", "She thought the author was awfully calm.",
    "Pour the sauce over the warm corn.", "This is the easiest piece to read.",
    "We see three green trees behind the church.", "He feels at ease when he sleeps near the sea.",
    "Jack and Anna packed a bag of apples.", "That black cat sat on my hat.",
    "My father parked the car in the dark garden.", "Hard work starts far from the market.",
    "The early bird turned and heard the first word.", "Bring the long string along, Ling.",
    "The king is singing something strange.", "Six thick socks sat stiff on the chest.",
    "Think of the other brother, not of this one.", "They breathe through their mouths in the bath.",
    "There are thirty three thousand feathers in there.", "Charlie chose cheese and a cherry.",
    "The judge enjoyed a large orange juice.", "She should wash the dishes, surely.",
    "Our usual treasure is pleasure, not leisure.", "Lily left little yellow lilies along the lane.",
    "Really, rural rulers rarely rush.", "Red roses grow around the ruined round tower.",
    "Kate could cook a good cake quickly.", "Give the girl a green guitar.",
    "How now, is the brown house down town?", "Loud clouds gathered around our mountain.",
    "The boy enjoyed the noisy toy.", "An oyster spoiled in boiling oil.",
    "I might try to write by the light of the fire.", "Nine kind mice tied white kites.",
    "They say the rain stays away today.", "Take the same train and wait at the main gate.",
    "The temperature will drop below zero tonight.", "Expect heavy snow over the mountain passes.",
    "It rained all week, but Sunday was bright.", "The wind blew the papers off the table.",
    "Your parcel should arrive between two and four.", "The total comes to forty seven dollars and fifty cents.",
    "My number is five, five, eight, one, two, zero, nine.", "The code is seven three nine four.",
    "We have sold one hundred and twelve tickets so far.", "It weighs about two and a half pounds.",
    "The first flight leaves at a quarter to eight.", "She was born on the eleventh of May.",
    "Add two cups of flour and a pinch of salt.", "Boil the potatoes for fifteen minutes.",
    "Mix the butter with brown sugar and vanilla.", "Let the soup simmer until the beans are soft.",
    "Turn left at the museum, then walk past the fountain.", "The pharmacy is opposite the post office.",
    "Take the second exit and follow the river.", "You cannot miss it, the door is bright purple.",
    "I booked a table for two by the window.", "The room has a view of the old bridge.",
    "Breakfast is served from seven until ten.", "Would you like a map of the city?",
    "The museum shop also sells umbrellas.", "Please keep your voice down in the library.",
    "The doctor will see you in a few minutes.", "Take one pill in the morning and one before bed.",
    "Try to breathe in slowly, and hold it.", "Does your shoulder hurt when you lift your arm?",
    "Drink plenty of water and get some rest.", "Press the blue button to begin.",
    "Your password must have at least twelve letters.", "Save your work before you close the program.",
    "The update will take about five minutes.", "Plug the cable in firmly, then wait for a beep.",
    "The battery is almost empty.", "I found three problems and fixed two of them.",
    "Move the file to the shared folder.", "Somebody has opened the same page twice.",
    "The best proof is a working example.", "We measured it twice to be sure.",
    "Light travels faster than anything we know.", "The moon pulls the sea up twice a day.",
    "Most plants move, only very slowly.", "A whale's heart beats about ten times a minute.",
    "Bees remember the way to every flower.", "The old map showed an island that never was.",
    "The Romans built bridges that still stand.", "Nobody knows who wrote that poem.",
    "Paper was once more precious than silver.", "History rarely moves in a straight line.",
    "Painting the fence took me all summer.", "My favourite film is a very old comedy.",
    "The band played until the lights went out.", "Her voice filled the whole opera house.",
    "I forgot my lines in front of everyone.", "We laughed so much that we missed the bus.",
    "My grandmother kept bees behind the barn.", "He promised to visit before the end of autumn.",
    "Nobody answered, so I opened the door.", "The elevator stopped between two floors.",
    "I would rather swim than sit on the beach.", "Our team lost by one point, as ever.",
    "Catch the ball with both hands.", "Jump over the puddle if you can.",
    "Please, do not feed the pigeons.", "The kitchen smells of fresh bread.",
    "Put the plums in the paper bag.", "Someone left a wet umbrella on my chair.",
    "The view from up there is worth the climb.", "I will have the mushroom omelette, please.",
    "Tell me about the place where you grew up.", "What would you do with one more hour a day?",
    "Honestly, I have no idea.", "That is the funniest thing I have heard all week.",
    "I never said it would be easy.", "If it works, we will know by tomorrow.",
    "As far as I remember, the shop was on the corner.", "Nothing happened, and then everything did.",
    "Believe me, it is far better than it looks.", "Above all, be patient with beginners.",
    "Both of them opened their mouths and sang.", "Move over, please, you are blocking the view.",
    "Wow, that was a wonderful performance!", "Oops, wrong button.", "Mm, maybe I was wrong.",
    "Fine, have it your way.", "Right, where were we?", "Okay, let us begin.", "Sure, go ahead.",
)  # fmt: skip

Rule = tuple[tuple[str, ...], ...]

PEOPLE = ("my brother", "Emma", "the new neighbour", "Mister Bloom", "our teacher", "the bus driver", "Paul",
          "a friend of mine", "the whole family", "Beatrice",
          "the farmer", "that woman", "Vivian", "everyone")  # fmt: skip
PAST = ("bought", "found", "forgot", "broke", "wrapped", "moved", "borrowed", "painted", "fixed", "loved", "washed",
        "opened", "chose", "brought", "photographed")  # fmt: skip
THINGS = ("a purple umbrella", "the old piano", "five maps", "a bowl of soup", "the blue vase", "a very big pumpkin",
          "some fresh bread", "the wrong book", "two wooden boats", "my favourite cup", "a bunch of white flowers",
          "the morning paper", "a pair of boots", "the broken phone", "an orange jumper")  # fmt: skip
TIMES = ("this morning", "yesterday", "on Friday", "last week", "before lunch", "at midnight", "in November",
         "after the movie", "about an hour ago", "on the way home", "by mistake")  # fmt: skip
PLACES = ("the market", "Paris", "the bus stop", "the swimming pool", "the office", "the harbour", "Bombay",
          "the farm", "the front door", "the museum", "Vienna", "the airport", "the park", "the town hall")  # fmt: skip
NUMBERS = ("two", "three", "four", "five", "seven", "eight", "nine", "eleven", "twelve", "fifteen", "twenty four",
           "thirty one", "forty", "fifty six", "ninety")  # fmt: skip
ACTIONS = ("book a table", "move the appointment", "open the window", "play some music", "send the photos",
           "call a taxi", "show you a map", "repeat the question", "turn the volume up", "buy the tickets",
           "wait for a moment", "begin from the top", "save the file", "remove the filter")  # fmt: skip
VERDICTS = ("better than before", "far too warm", "a bit awkward", "absolutely fine", "rather funny", "worth a try",
            "quite beautiful", "almost impossible", "fairly obvious", "not very probable")  # fmt: skip
OPENERS = ("Well,", "Actually,", "By the way,", "Oh,", "You know,", "To be fair,", "Sure,", "Wow,", "Hmm,", "Now,")

TEMPLATES: tuple[Rule, ...] = (
    (PEOPLE, PAST, THINGS, TIMES),
    (OPENERS, PEOPLE, PAST, THINGS),
    (("Did",), PEOPLE, ("see", "move", "buy", "remember", "want", "open", "prefer"), THINGS, ("?",)),
    (("Would you like me to", "Shall I", "Could you please", "Do you want to"), ACTIONS, ("?",)),
    (("How far is it to", "When did you leave", "What did you do at", "Have you ever been to"), PLACES, ("?",)),
    (("There are", "We need", "I counted", "Please bring"), NUMBERS, ("people", "bottles", "pages", "apples", "chairs",
     "members", "boxes", "wolves"), ("from", "near", "for", "outside"), PLACES),
    (("I think", "I believe", "They say", "Maybe", "We hope"), THINGS, ("will be", "was", "might be"), VERDICTS),
    (OPENERS, ("I can", "we should", "I would", "let me"), ACTIONS, TIMES[:1] + ("now", "for you", "before you leave")),
    (("Meet me at", "Let us walk to", "Take the bus to", "I live above"), PLACES, ("at", "before", "after"), NUMBERS),
    (("Your number is", "The code is", "Please dial"), NUMBERS, NUMBERS, NUMBERS),
    (("Thank you for", "I am sorry about", "Tell me more about", "What about"), THINGS),
)  # fmt: skip


def sentence_split(sentence: str) -> str:
    """`test` for about one sentence in ten, else `train`; depends on the words only."""
    digest = hashlib.blake2b(("text:" + sentence).encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < TEST_SHARE else "train"


def written_sentences(split: str) -> tuple[str, ...]:
    """The hand-written sentences of one split."""
    return tuple(s for s in SENTENCES if sentence_split(s) == split)


def template_sentence(rng: np.random.Generator) -> str:
    """One sentence of the grammar, of either split."""
    rule = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    words = " ".join(choices[int(rng.integers(len(choices)))] for choices in rule)
    words = words.replace(" ?", "?") if words.endswith("?") else words + "."
    return words[0].upper() + words[1:]


def draw_sentence(rng: np.random.Generator, split: str, longest: int | None = None) -> str:
    """A random sentence of a split: half written ones, half from the grammar.

    With `longest`, one of the written sentences with at most so many letters, or else one of the five shortest.
    """
    written = written_sentences(split)
    if longest is not None:
        written = tuple(s for s in written if len(s) <= longest) or tuple(sorted(written, key=len)[:5])
    if longest is not None or rng.random() < 0.5:
        return written[int(rng.integers(len(written)))]
    sentence = template_sentence(rng)
    while sentence_split(sentence) != split:
        sentence = template_sentence(rng)
    return sentence
