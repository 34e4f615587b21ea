"""Plots in which the hero and a friend, a stranger or an animal solve a problem together.

Same notation as `plots_alone.py`; `friend`, `f_they`, `f_them`, `f_their` belong to the friend, who
always has the
other pronoun than the hero, so that "he" and "she" are never ambiguous.
"""

STUCK = """
One {weather} {time}, {name} and {friend} played with {a_color} {flying} {at_place}.
One {weather} {time}, {name} took {their} {color} {flying} {to_place}. {Friend} came too.

Suddenly, the wind blew very hard. The {flying} flew up and got stuck on {high}.
A strong wind came and carried the {flying} away. It landed on {high}.

"Oh no!" cried {name}. {They} jumped and jumped, but {they} could not reach it.
{name} threw a stick at it, but the stick was too short. "What can we do?" asked {name}.

"Let us find a ladder," said {friend}. But there was no ladder [anywhere|to be found].
{friend} tried to climb up, but it was too high for {f_them}. [They sat down and thought.|They did not \
know what to do.]

Then {name} had an idea. "Stand on my shoulders!" {they} said.
"I know!" said {friend}. "We can [tie two sticks together|use a long rake]."
Just then, a [black|big] bird came by. "Can you help us, please?" asked {name}.

It worked! The {flying} came down, and they both cheered.
A moment later, the {flying} fell down, right into {friend}'s arms. "Hooray!" they shouted.

"We are a good team," said {name}. They played together until the sun went down.
"Thank you, {friend}," said {name}. "I could not have done it without you."
They had learned that two heads are better than one.
"""

BROKEN = """
{name} had {a_color} {thing} that {they} loved very much. One {weather} {time}, {they} showed it to \
{friend}.
One {weather} {time}, {name} and {friend} played with {name}'s {color} {thing}.

"Can I hold it?" asked {friend}. {name} gave it to {f_them}. But {friend} dropped it, and the {part} came \
off.
They both wanted to hold it. They pulled and pulled. Snap! The {part} came off.

"You broke it!" shouted {name}. {friend} began to cry. [{F_they} ran home.|{F_they} hid behind a tree.]
{name} was very angry. "Go away!" {they} said. {friend} went home with tears in {f_their} eyes.

{name} sat alone with the broken {thing}. It was no fun without {friend}.
"{friend} did not want to break it," said {their} {helper}. "Things can be mended. Friends are harder to \
find."

The next {time}, there was a knock on the door. It was {friend}. {F_they} had {mend} in {f_their} hand.
Soon {friend} came back. "I am sorry," {f_they} said. "I have brought {mend}. We can mend it."

"I am sorry too," said {name}. "I should not have shouted." Together they put the {part} back on.
They worked side by side. {name} held the {thing}, and {friend} used {mend}. Soon the {part} was as good \
as new.

The {thing} looked [even better|a little different] now. "This is the best {thing} in the world," said \
{name}.
They played with the {thing} all day. {name} had learned that a friend is worth more than a {thing}.
"""

SHARE = """
One {weather} {time}, {name} sat {at_place}. {Their} {helper} had given {them} {a_food}.
{name} was very hungry. {They} sat down {at_place} and took out {a_food}.

Then {friend} came by. {F_they} looked at the {food}. "I have nothing to eat," said {friend}.
Just then, {they} saw {friend}. {F_they} looked sad and hungry. "I lost my lunch," {f_they} said.

{name} held the {food} tight. "It is mine," {they} said. {friend} walked away slowly.
"This is my {food}," said {name}. "There is not enough for two." {friend} sat down under a tree, all alone.

{name} took a bite, but it did not taste good. {They} looked at {friend} and felt [bad|sorry].
But {name} was not happy. {They} remembered the words of {their} {helper}: "It is good to share."

{They} got up and went to {friend}. "Here," {they} said. "You can have half of my {food}."
"Wait!" called {name}. {They} cut the {food} in two and gave {friend} the bigger half.

"Thank you!" said {friend}. {F_their} eyes [shone|lit up]. They ate together and [laughed|told jokes].
{friend} smiled from ear to ear. "You are very kind," {f_they} said. They sat in the sun and ate.

The next day, {friend} brought two [muffins|apples], one for {f_them}self and one for {name}.
The {food} tasted much better now. {name} had found a new friend.
From that day on, they always shared their lunch.
"""

BABY = """
One {weather} {time}, {name} heard a soft cry {at_place}. {They} went to look and found a tiny {baby} \
{spot1}.
One {weather} {time}, {name} walked {to_place}. {Spot1}, {they} saw a little {baby}. It was all alone.

"Are you lost?" asked {name}. The {baby} [shook|looked up] with big, sad eyes.
"Where is your mother?" asked {name}. The {baby} only cried.

{name} picked it up and kept it warm. {They} gave it some water.
{name} wrapped it in {their} scarf. "Do not be afraid," {they} said. "I will help you."

{They} looked for the mother {spot2}, but {they} found nobody. {They} looked {spot3}, but there was only \
the wind.
{They} asked {friend}. "I have not seen the {parent}," said {friend}, "but I will come with you."

Then {they} met an old man with a white beard. "The {parent} lives at {parent_home}," he said.
Then {name} remembered something. {They} had seen a {parent} near {parent_home}!

{name} ran to {parent_home} as fast as {they} could. There was the {parent}, calling for her {baby}!
When {name} came to {parent_home}, the {parent} ran out to meet them. The {baby} [jumped|cried out] with \
joy.

The {parent} was so happy that she [danced in a circle|licked {name}'s hand]. The {baby} was safe at last.
The {baby} snuggled up to its mother. {name} [waved and went home|felt warm inside].

From then on, {name} visited the {baby} every [week|Sunday].
"You are a good {kid}," said {their} {helper}. {name} felt very proud.
"""

GIFT = """
It was almost {friend}'s birthday. {name} wanted to give {f_them} something special, but {they} had no \
money.
{friend} was sick and had to stay in bed. {name} wanted to cheer {f_them} up.

"I will make {a_gift}," thought {name}. {They} went {to_place} to find what {they} needed.
"What can I give {f_them}?" asked {name}. "Make something with your own hands," said {their} {helper}.

{They} worked all {time} and made {a_gift}. It was [beautiful|very pretty].
So {name} made {a_gift}. {They} worked until the sun went down.

But on the way to {friend}'s house, {name} fell into a puddle. The {gift} was [ruined|full of mud]!
But then it began to rain, and the {gift} was ruined. {name} [sat down and cried|did not know what to do].

"I have nothing to give," {they} said sadly. But {they} went to see {friend} anyway.
{name} knocked on the door with empty hands. "I am sorry," {they} said. "I wanted to bring you {a_gift}."

"You came to see me!" said {friend}. "That is the best gift of all."
{friend} hugged {them}. "I do not need {a_gift}," {f_they} said. "I am happy that you are here."

They ate cake and played games until it was dark.
They spent the whole {time} together and made a new {gift}, even [bigger|better] than the first one.

{name} had learned that time with a friend is the best gift.
-
"""

TREASURE = """
One {weather} {time}, {name} found an old map {spot1} {at_place}. There was a big red cross on it.
One {weather} {time}, {name} and {friend} found a bottle {spot1}. Inside was an old map!

"It is a treasure map!" said {friend}. "Let us follow it!"
{name} showed it to {friend}. "A treasure!" {f_they} shouted. "Let us go and find it!"

They walked over the hill and across the [bridge|field]. The way was long, and soon they were tired.
They followed the path into the woods. It was [dark|quiet] there, and {friend} held {name}'s hand.

Then they came to a [wide|deep] river. "How can we get to the other side?" asked {name}.
But a huge rock was in the way. They pushed and pushed, but it did not move.

They thought for a while. Then they found a long branch and used it to go on.
"Let us try together," said {friend}. "One, two, three!" And then it worked.

At last, they came to the place with the cross. They dug a deep hole and found a wooden box.
At the end of the path, there was a hollow tree. Inside it stood a small box with a lock.

They opened it slowly. It was full of {treasure}! [They could not believe their eyes.|They cheered and \
danced.]
The box was full of {treasure}. "We are rich!" laughed {friend}.

They shared the {treasure} with all the children in the village.
"You can have half of it," said {name}. "But the best part was the adventure with you."
"""

SKILL = """
{name} wanted to learn to {skill}. All of {their} friends could do it, but {name} could not.
One {weather} {time}, {name} saw {friend} {at_place}. {friend} could {skill}! {name} wanted to learn it too.

{Their} {helper} gave {them} {a_skill_tool}. {name} went {to_place} to try.
{They} borrowed {a_skill_tool} and went {to_place}.

{They} tried once, but {they} {slip}. {They} tried again, but {they} {slip} again.
It looked easy, but it was not. {name} {slip}. [Some children laughed.|It hurt a little.]

"I cannot do it," said {name}. "I will never learn to {skill}."
{name} was angry. "This is too hard!" {they} shouted.

{friend} came to {them}. "I could not do it at first either," {f_they} said. "Let me show you."
"Try again," said {friend}. "I needed a hundred tries. I will help you."

They practiced together every day. Each day, {name} got a little better.
{name} practiced in the morning and in the evening. {friend} helped {them} every time.

Then one {time}, it worked! "Look at me!" shouted {name}. "I can {skill}!"
At last, {name} did it. {They} could {skill}! {friend} clapped {f_their} hands.

{name} was so proud. {They} had learned never to give up.
The next week, {name} taught a smaller child to {skill}.
"""

NEWCOMER = """
One {weather} {time}, a new {f_kid} came to live next door. {F_their} name was {friend}.
A new family moved into the house across the street. They had a {f_kid} named {friend}.

{friend} sat alone {at_place} and looked sad. {F_they} did not know anyone.
{name} saw {friend} sitting all alone {at_place}. Nobody talked to {f_them}.

{name} wanted to say hello, but {they} was [shy|a little afraid]. "What if {f_they} does not like me?" \
{they} thought.
{name} did not know what to say. {They} walked past {friend} three times and said nothing.

"Everyone needs a friend," said {their} {helper}. "Just be yourself."
Then {name} remembered how it felt to be alone. {They} took a deep breath.

So {name} took {their} {toy} and went to {f_them}. "Hello," {they} said. "Do you want to play with me?"
{They} picked up {their} {toy} and walked over. "My name is {name}," {they} said. "Would you like to play?"

{friend} looked up and smiled. "Yes, please!" {f_they} said. "I know a good game."
"I would love to," said {friend}. {F_they} was not sad anymore.

They played with the {toy_noun} all {time} long. They laughed until their tummies hurt.
They ran and jumped and laughed. Soon the other children came and played with them too.

Now {name} and {friend} are the best of friends.
{name} was glad that {they} had been brave. One small hello can make a new friend.
"""

RACE = """
There was a big race {at_place}. {name} wanted to win it more than anything. {friend} was in the race too.
One {weather} {time}, all the children met {at_place} for a race. {name} and {friend} stood side by side.

"I will be the first," said {name}. "Ready, steady, go!" Everyone began to run.
"The winner gets a golden cup," said the teacher. "One, two, three, go!"

{name} ran as fast as the wind. Soon {they} was far ahead of the others.
{name} was fast, but {friend} was fast too. They ran side by side.

Then {name} heard a cry. {friend} had [tripped over a root|stepped into a hole] and could not get up.
Suddenly, {friend} fell down. {F_they} held {f_their} knee and cried.

{name} looked at the finish line. It was so close! But then {they} looked back at {friend}.
"If I stop, I will lose," thought {name}. But {friend} was hurt.

{They} turned around and ran back. "Put your arm around me," {they} said. "We will go together."
{name} stopped and helped {f_them} up. "Can you walk?" {they} asked. Slowly, they walked on together.

They were the last to cross the line, but everyone clapped and cheered for them.
They did not win the race. But when they came in, all the people stood up and cheered.

"You are a true friend," said {friend}. That was better than any golden cup.
The teacher gave {name} a [flower|medal]. "A kind heart always wins," she said.
"""

RAIN = """
One {time}, {name} and {friend} wanted to play {at_place}. But it began to rain.
It was a [gray|cold] {time}. {name} looked out of the window. It rained and rained.

"Now we cannot play," said {name}. [{They} kicked a pillow.|{They} was very sad.]
"This is the worst day ever," said {name} to {friend}. They [sat on the floor|looked at the gray clouds].

"We can play in here," said {friend}. "Let us build [a tent|a castle|a ship]!"
Then {friend} had an idea. "Let us pretend that we are [pirates|explorers]!" {f_they} said.

They took all the chairs, the pillows and a big {color} blanket. Soon they had a wonderful place to hide.
They turned the table over and hung up {a_color} blanket. {name} made a flag from an old shirt.

Inside it was warm and dry. They ate [cookies|apples|pancakes] and told each other stories.
{name} was the captain, and {friend} looked for land. They saw whales, islands and a dragon.

They played for so long that they did not see the rain stop. "Look!" said {friend}. There was a rainbow \
in the sky.
When the rain stopped, {their} {helper} called, "You can go out now!" But {name} and {friend} wanted to \
stay.

"I hope it rains tomorrow," said {name}, and {friend} laughed.
{name} had learned that a rainy day can be fun too.
"""

BRIDGE = """
A stream ran past {name}'s home. {friend} lived on the other side. One night, a storm washed the bridge \
away.
One {weather} {time}, {name} wanted to visit {friend}. But the bridge over the stream was broken.

"How can I get across?" asked {name}. The water was [fast|deep] and cold.
{name} stood on one side, and {friend} stood on the other. "I cannot get to you!" called {name}.

{They} tried to jump, but {they} fell into the water and got very wet.
{They} put a board across, but the water carried it away.

"We need to build a new bridge," called {friend}. "You start on your side, and I will start on mine."
"Let us use [stones|logs]," called {friend}. "If we both work, it will not take long."

They carried one [stone|log] after another. It was hard work, and their arms got tired.
All {time} they worked. A [beaver|big bear] saw them and came to help.

When the sun went down, the bridge was done. {name} walked across, step by step, and hugged {friend}.
At last, they met in the middle. They shook hands and laughed. The bridge was strong.

Now everyone could cross the stream again. The [ducks|rabbits] were the first to try it.
"We built this together," said {friend}. {name} nodded [proudly|happily].
"""

TOGETHER = {
    "stuck": STUCK,
    "broken": BROKEN,
    "share": SHARE,
    "baby": BABY,
    "gift": GIFT,
    "treasure": TREASURE,
    "skill": SKILL,
    "newcomer": NEWCOMER,
    "race": RACE,
    "rain": RAIN,
    "bridge": BRIDGE,
}
