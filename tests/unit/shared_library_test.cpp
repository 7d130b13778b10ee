// SPDX-License-Identifier: MIT
#include "shared_library.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "error_of.hpp"
#include "fake_loader.hpp"

namespace dmabridge {
namespace {

using test::error_of;
using test::symbol_of;
using testing::ElementsAre;
using testing::HasSubstr;

auto twice(int number) -> int {
  return number * 2;
}

auto wanted(std::vector<std::string> names) -> library_description {
  return {.what = "the frobnicator",
          .names = std::move(names),
          .remedy_missing = "install it",
          .remedy_old = "install a newer one"};
}

class shared_library_test : public testing::Test {
 protected:
  test::fake_loader loader_;
  loader_override active_{loader_};
};

TEST_F(shared_library_test, first_of_the_names_that_there_is) {
  loader_.libraries["libfrob.so.2"];
  loader_.libraries["libfrob.so.1"];
  {
    const shared_library library(wanted({"libfrob.so.3", "libfrob.so.2", "libfrob.so.1"}));
    EXPECT_EQ(library.name(), "libfrob.so.2");
    EXPECT_EQ(loader_.closed, 0U);
  }
  EXPECT_EQ(loader_.closed, 1U);
}

TEST_F(shared_library_test, one_that_the_process_has_already_comes_first) {
  loader_.libraries["libfrob.so.2"];
  loader_.libraries["libfrob.so.1"];
  loader_.loaded.insert("libfrob.so.1");
  const shared_library library(wanted({"libfrob.so.2", "libfrob.so.1"}));
  EXPECT_EQ(library.name(), "libfrob.so.1");
  EXPECT_THAT(loader_.opened, ElementsAre("libfrob.so.1"));
}

TEST_F(shared_library_test, none_there_names_all_that_were_tried) {
  const auto failure =
      error_of([] { const shared_library library(wanted({"libfrob.so.2", "libfrob.so.1"})); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_EQ(failure.code(), ELIBACC);
  EXPECT_THAT(failure.what(), HasSubstr("cannot load the frobnicator"));
  EXPECT_THAT(failure.what(), HasSubstr("libfrob.so.2: cannot open"));
  EXPECT_THAT(failure.what(), HasSubstr("libfrob.so.1: cannot open"));
  EXPECT_THAT(failure.what(), HasSubstr("to fix it: install it"));
  EXPECT_EQ(loader_.closed, 0U) << "nothing was opened";
}

TEST_F(shared_library_test, one_that_cannot_be_loaded_is_not_taken_for_none) {
  loader_.libraries["libfrob.so.1"];
  for (const auto* why :
       {"libfrob.so.1: cannot enable executable stack as shared object requires: Invalid argument",
        "libneeded.so.4: cannot open shared object file: No such file or directory"}) {
    loader_.broken["libfrob.so.1"] = why;
    const auto failure =
        error_of([] { const shared_library library(wanted({"libfrob.so.2", "libfrob.so.1"})); });
    EXPECT_EQ(failure.code(), ELIBBAD);
    EXPECT_THAT(failure.what(), HasSubstr(why));
    EXPECT_THAT(failure.what(), HasSubstr("to fix it: repair or replace"));
  }
  loader_.libraries["libfrob.so.2"];
  const shared_library library(wanted({"libfrob.so.1", "libfrob.so.2"}));
  EXPECT_EQ(library.name(), "libfrob.so.2") << "the next one, if that is fine";
}

TEST_F(shared_library_test, functions) {
  loader_.libraries["libfrob.so.1"] = {{"twice", symbol_of(twice)}};
  const shared_library library(wanted({"libfrob.so.1"}));
  int (*function)(int) = nullptr;
  library.find("twice", function);
  EXPECT_EQ(function(21), 42);
  library.find_if_there("thrice", function);
  EXPECT_EQ(function, nullptr);
  library.find_if_there("twice", function);
  EXPECT_NE(function, nullptr);
}

TEST_F(shared_library_test, missing_function_names_library_and_function) {
  loader_.libraries["libfrob.so.1"];
  const shared_library library(wanted({"libfrob.so.1"}));
  int (*function)(int) = nullptr;
  const auto failure = error_of([&] { library.find("twice", function); });
  EXPECT_EQ(failure.code(), ENOSYS);
  EXPECT_THAT(failure.what(), HasSubstr("libfrob.so.1 has no twice"));
  EXPECT_THAT(failure.what(), HasSubstr("to fix it: install a newer one"));
}

// With the loader of the C library.
TEST(shared_library_real, library_of_the_system) {
  const shared_library library(wanted({"libno-such-thing.so.7", "libc.so.6"}));
  EXPECT_EQ(library.name(), "libc.so.6");
  int (*absolute)(int) = nullptr;
  library.find("abs", absolute);
  EXPECT_EQ(absolute(-3), 3);
}

// A part of every C library, and of no program that is linked today.
TEST(shared_library_real, library_that_is_not_loaded_yet) {
  const shared_library library(wanted({"libutil.so.1"}));
  EXPECT_EQ(library.name(), "libutil.so.1");
}

TEST(shared_library_real, words_of_the_loader) {
  const auto failure =
      error_of([] { const shared_library library(wanted({"libno-such-thing.so.7"})); });
  EXPECT_THAT(failure.what(), HasSubstr("libno-such-thing.so.7: cannot open shared object file"));
}

}  // namespace
}  // namespace dmabridge
